"""Scores a checkpoint in two processes, each of which writes down what its callbacks hold.

python two_processes.py ROOT CHECKPOINT FOLDER
"""

import json
import sys
from pathlib import Path

import lightning.pytorch as L

from anomaly_zoo.callbacks.evaluation import EvaluationCallback
from anomaly_zoo.callbacks.visualization import VisualizationCallback
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.methods.memory import PatchCore


def main(root: Path, checkpoint: Path, folder: Path) -> None:
    evaluation, visualization = EvaluationCallback(), VisualizationCallback(folder / "pictures", num_images=1)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[evaluation, visualization],
        logger=False,
        enable_progress_bar=False,
        default_root_dir=folder,
    )
    data = MVTecDataModule(root, "alpha", image_size=64, shots=4, test_batch_size=1)
    trainer.test(PatchCore.load_from_checkpoint(checkpoint), datamodule=data, verbose=False)
    held = {
        "world_size": trainer.world_size,
        "metrics": evaluation.metrics,
        "per_defect": evaluation.per_defect,
        "undefined": evaluation.undefined,
        "images": evaluation.images,
        "pictures": [file.name for file in visualization.files],
    }
    (folder / f"{trainer.global_rank}.json").write_text(json.dumps(held))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
