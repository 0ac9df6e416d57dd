"""What an export changes: scores and maps of a test split in torch, onnxruntime, OpenVINO and with 8-bit matrices.

    .venv/bin/python benchmarks/parity.py --root parts --category bracket --methods patchcore coft

Differences are the largest over all test images: of scores relative to the score in torch, of maps relative to the
largest value of the image's map in torch. Decisions: how many images change theirs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openvino
import torch

from anomaly_zoo.config import build, quiet, resolve
from anomaly_zoo.data.dataset import MVTecDataset
from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.adapting import make_model
from anomaly_zoo.deploy.export import export_onnx, quantise
from anomaly_zoo.deploy.inspecting import OUTPUTS, Inspection
from anomaly_zoo.deploy.model_folder import Model
from anomaly_zoo.deploy.runtime import OnnxInspector
from anomaly_zoo.deploy.torch_inspector import TorchInspector
from anomaly_zoo.metrics import aupro, auroc

HEADER = ("category", "method", "path", "images", "score", "map", "decisions", "image AUROC", "AUPRO")


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder in the MVTec layout")
    parser.add_argument("--category", required=True)
    parser.add_argument("--methods", nargs="+", default=["patchcore", "coft"])
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--option", action="append", default=[], help="such as --option=--backbone.scales=[0.667,1.0]")
    options = parser.parse_args()
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for method in options.methods:
        for row in rows(method, options.root, options.category, options.shots, options.option):
            print(f"| {' | '.join(row)} |", flush=True)


def rows(method: str, root: Path, category: str, shots: int, others: list[str]) -> Iterator[list[str]]:
    """A row per path through which the images went."""
    data = [f"--data.root={root}", f"--data.category={category}", f"--data.shots={shots}"]
    cli = build(resolve(method, [*data, *others, "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]))
    with quiet():
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        model = make_model(cli.model, cli.datamodule)
    tests = MVTecDataset(root, category, model.image_shape)
    masks = torch.from_numpy(np.concatenate([tests[number].mask for number in range(len(tests))]))
    reference = run(TorchInspector(model).inspect, tests.paths)
    for path, inspect in paths_of(model):
        found = run(inspect, tests.paths) if path != "torch" else reference
        score = max(
            abs(a.image_score - b.image_score) / abs(b.image_score) for a, b in zip(found, reference, strict=True)
        )
        maps = max(
            np.abs(a.anomaly_map - b.anomaly_map).max() / np.abs(b.anomaly_map).max()
            for a, b in zip(found, reference, strict=True)
        )
        changed = sum(a.is_anomalous != b.is_anomalous for a, b in zip(found, reference, strict=True))
        scores = torch.tensor([inspection.image_score for inspection in found])
        stacked = torch.from_numpy(np.stack([inspection.anomaly_map for inspection in found]))
        quality = f"{auroc(scores, torch.tensor(tests.labels)).item():.4f}"
        overlap = f"{aupro(stacked, masks).item():.4f}" if tests.has_masks else "no masks"
        yield [category, method, path, str(len(found)), f"{score:.1e}", f"{maps:.1e}", str(changed), quality, overlap]


def paths_of(model: Model) -> Iterator[tuple[str, Callable[[list[np.ndarray]], list[Inspection]]]]:
    """The model in torch and in what it is exported to."""
    with tempfile.TemporaryDirectory(prefix="parity_") as scratch:
        whole, small = Path(scratch) / "model.onnx", Path(scratch) / "int8.onnx"
        export_onnx(model, whole)
        quantise(whole, small)
        yield "torch", TorchInspector(model).inspect
        yield "onnxruntime", OnnxInspector(whole).inspect
        yield "OpenVINO", in_openvino(whole)
        yield "onnxruntime, int8", OnnxInspector(small).inspect


def in_openvino(path: Path) -> Callable[[list[np.ndarray]], list[Inspection]]:
    """OpenVINO on the same file."""
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def inspect(images: list[np.ndarray]) -> list[Inspection]:
        found = compiled(images[0][None])
        score, anomaly_map, p_value, conformal, decision = (found[name][0] for name in OUTPUTS)
        return [Inspection(float(score), float(p_value), float(conformal), bool(decision), anomaly_map)]

    return inspect


def run(inspect: Callable[[list[np.ndarray]], list[Inspection]], files: list[Path]) -> list[Inspection]:
    """Every file by itself."""
    return [inspect([read_image(path)])[0] for path in files]


if __name__ == "__main__":
    main()
