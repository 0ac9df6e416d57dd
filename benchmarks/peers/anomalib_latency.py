"""Milliseconds per image of anomalib's PatchCore through its torch inferencer and its ONNX export.

Called by benchmarks/latency.py with the interpreter of the peer environment; shares its set-up with anomalib_run.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import anomalib_run
import numpy as np
import onnxruntime
import torch
from anomalib.deploy import ExportType, TorchInferencer
from anomalib.engine import Engine
from PIL import Image


def measure(
    score: Callable[[list[np.ndarray]], Any], images: list[np.ndarray], batch: int, rounds: int
) -> dict[str, float]:
    """Wall and CPU time per image over `rounds` batches, after two to warm up; as in latency.py."""
    wall, cpu = [], []
    for number in range(rounds + 2):
        some = [images[(number * batch + place) % len(images)] for place in range(batch)]
        start, start_cpu = time.perf_counter(), time.process_time()
        score(some)
        wall.append((time.perf_counter() - start) * 1e3 / batch)
        cpu.append((time.process_time() - start_cpu) * 1e3 / batch)
    return {
        "median": statistics.median(wall[2:]),
        "p95": float(np.quantile(wall[2:], 0.95)),
        "cpu": statistics.median(cpu[2:]),
    }


def main() -> None:
    """Fits, exports and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--category", required=True)
    parser.add_argument("--shots", type=int, required=True)
    parser.add_argument("--support-file", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    fixed = {"image_size": 256, "as_shipped": False, "seed": 0, "eval_batch_size": 8, "num_workers": 0}
    run = argparse.Namespace(**fixed, **vars(args))
    torch.set_num_threads(args.threads)
    tests = sorted(path for path in (args.root / args.category / "test").glob("*/*") if path.is_file())
    images = [np.asarray(Image.open(path).convert("RGB")) for path in tests[:: -(-len(tests) // 32)]]
    height, width = images[0].shape[:2]
    with tempfile.TemporaryDirectory(prefix="anomalib_latency_") as scratch:
        support = anomalib_run.read_support(run)
        data = anomalib_run.build_data(args.root / args.category, support, Path(scratch), run)
        model = anomalib_run.build_model("patchcore", run.image_size, run.as_shipped)
        engine = Engine(default_root_dir=scratch, enable_progress_bar=False, devices=1, limit_val_batches=0)
        engine.fit(model=model, datamodule=data)
        torch_file = engine.export(model, ExportType.TORCH, export_root=scratch)
        # With a free batch size, anomalib 2.7.0 writes a PatchCore that takes two images and nothing else
        onnx_file = engine.export(
            model, ExportType.ONNX, export_root=scratch, input_size=(height, width), onnx_kwargs={"dynamic_axes": None}
        )
        inferencer = TorchInferencer(torch_file, device="cpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def in_torch(some: list[np.ndarray]) -> None:
        with torch.inference_mode():
            if len(some) == 1:
                inferencer.predict(some[0])
            else:
                batch = torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2).float() / 255
                inferencer.model(inferencer.pre_process(batch))

    def in_onnxruntime(some: list[np.ndarray]) -> None:
        session.run(None, {name: (np.stack(some).transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)})

    paths = {"torch 1": in_torch, "torch 8": in_torch, "onnxruntime 1": in_onnxruntime}
    times = {path: measure(score, images, int(path.split()[1]), args.rounds) for path, score in paths.items()}
    args.output.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
