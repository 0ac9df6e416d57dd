"""Adapts a method and scores the test split, in as many processes as asked for; each writes down what it ended with.

python adapt_and_score.py METHOD ROOT FOLDER PROCESSES
"""

import json
import sys
from pathlib import Path

import torch

from anomaly_zoo.config import build, resolve


def main(method: str, root: Path, folder: Path, processes: int) -> None:
    options = [f"--data.root={root}", "--data.category=alpha", "--data.dataset=tiny", "--data.shots=4"]
    options += ["--data.image_size=64", "--data.batch_size=2", "--data.test_batch_size=1", "--trainer.accelerator=cpu"]
    options += [f"--trainer.devices={processes}", "--trainer.enable_progress_bar=false"]
    options += ["--trainer.strategy=ddp"] if processes > 1 else []
    cli = build(resolve(method, [*options, f"--trainer.default_root_dir={folder}"]))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    weights = torch.cat([value.flatten().double() for value in cli.model.state_dict().values()])
    held = {
        "world_size": cli.trainer.world_size,
        "metrics": cli.evaluation.metrics,
        "per_defect": cli.evaluation.per_defect,
        "scores": [image["score"] for image in cli.evaluation.images],
        "weights": weights.sum().item(),
    }
    (folder / f"{cli.trainer.global_rank}.json").write_text(json.dumps(held))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
