"""`python -m anomaly_zoo predict --model | export | serve`: what is done with an adapted method."""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from anomaly_zoo.deploy.inspecting import Inspector, find_images, warn, watch_folder
from anomaly_zoo.deploy.outputs import PredictionWriter, inspect_files, is_whole

_MODEL_HELP = "folder written by `fit --output`"


def meant(arguments: Sequence[str]) -> bool:
    """Whether a command line is for this module; `predict --ckpt_path` is Lightning's, for a test split.

    >>> meant(["predict", "--model", "model", "images"]), meant(["predict", "--ckpt_path", "adapted.ckpt"])
    (True, False)
    """
    lightnings = ("--ckpt_path", "--config", "-c", "--print_config")
    return arguments[:1] in (["export"], ["serve"]) or (
        arguments[:1] == ["predict"] and not any(argument.split("=")[0] in lightnings for argument in arguments)
    )


def main(arguments: Sequence[str]) -> int:
    """Runs one of the commands; 1 if a file could not be read, ValueError or OSError if the request cannot be met."""
    spelled = [re.sub(r"^--[a-z_]+", lambda name: name[0].replace("_", "-"), argument) for argument in arguments]
    options = _parser().parse_args(spelled)
    if getattr(options, "threshold", None) is not None and options.false_alarm_rate is not None:
        raise ValueError("--threshold and --false-alarm-rate both set the threshold: pass one of them.")
    return {"predict": _predict, "export": _export, "serve": _serve}[options.command](options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Becomes one line, as every mistake on the command line."""
        raise ValueError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("python -m anomaly_zoo")
    commands = parser.add_subparsers(dest="command", required=True)

    about = "Inspects images: predictions.csv, predictions.jsonl, overlays and a contact sheet. "
    lightnings = "(With --config and --ckpt_path: the scores of a test split.)"
    add = commands.add_parser("predict", description=about + lightnings).add_argument
    add("--model", required=True, type=Path, help=f"{_MODEL_HELP}, or a file written by `export`")
    add("images", nargs="+", help="files, folders or quoted patterns")
    add("--output", required=True, type=Path, help="folder for what is found")
    add("--overlays", choices=("anomalous", "all", "none"), default="anomalous", help="of which images")
    add("--maps", action="store_true", help="of every image: its map (npy) and mask in its own size")
    _add_threshold(add)
    whole = _number("a number of 1 or more", lambda value: value >= 1 and value.is_integer())
    add("--batch-size", type=whole, default=8, help="images in memory at once")
    add("--device", default="cpu", help="cpu, cuda, ...; a model folder only")
    add("--watch", action="store_true", help="go on with whatever appears in the folder, until Ctrl-C")
    add("--quiet", action="store_true", help="no progress")

    about = "Writes a model folder as one file for onnxruntime or OpenVINO."
    add = commands.add_parser("export", description=about).add_argument
    add("--model", required=True, type=Path, help=_MODEL_HELP)
    add("--format", choices=("onnx",), default="onnx")
    add("--output", type=Path, help="file; by default model.onnx in the model folder")
    _add_threshold(add)
    add("--int8", action="store_true", help="weights of 8 bits; measure what it costs, see docs/deploy.md")

    about = "A page to drop images on; for this machine only, by default."
    add = commands.add_parser("serve", description=about).add_argument
    add("--model", type=Path, help=f"{_MODEL_HELP}; without it, adapt a product on the page")
    add("--host", default="127.0.0.1", help="address to listen on")
    port = _number("a port", lambda value: 0 <= value < 2**16 and value.is_integer())
    add("--port", type=port, default=8000, help="0 takes a free one")
    add("--method", default="frozen", help="for new products: a name in configs/methods")
    add("--folder", type=Path, default=Path("products"), help="where new products' models are kept")
    add("--option", action="append", default=[], help="of the configuration, such as --backbone.name=...")
    return parser


def _add_threshold(add: Callable[..., Any]) -> None:
    above = "image score above which an image counts as anomalous; by default the model's"
    add("--threshold", type=_number("a number", math.isfinite), help=above)
    rate = _number("a share between 0 and 1, such as 0.05", lambda value: 0 < value < 1)
    add("--false-alarm-rate", type=rate, help="the threshold for another share of normal images")


def _number(what: str, is_right: Callable[[float], bool]) -> Callable[[str], float]:
    def number(text: str) -> float:
        with suppress(ValueError):
            if is_right(float(text)):
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return number


def _predict(options: argparse.Namespace) -> int:
    folder = Path(options.images[0])
    if options.watch and (len(options.images) != 1 or not folder.is_dir()):
        raise ValueError(f"--watch needs one folder, not {' '.join(options.images)}")
    inspector = _inspector(options.model, options.device)
    inspector.decide(options.threshold, options.false_alarm_rate)
    warn(inspector.warnings)
    with PredictionWriter(options.output, inspector, options.overlays, options.watch, options.maps) as writer:
        if options.watch:
            paths = watch_folder(folder, writer.known, partial(is_whole, inspector))
            with suppress(KeyboardInterrupt):  # the way to end it
                inspect_files(inspector, _counted(paths, "watching", options.quiet), writer, batch_size=1)
        else:
            paths = _counted(find_images(options.images), "inspecting", options.quiet)
            inspect_files(inspector, paths, writer, int(options.batch_size))
            if not sum(writer.counts.values()):
                endings = "none ends in .png, .jpg, .bmp, .tif ..."
                raise FileNotFoundError(f"no images in {' '.join(options.images)}: {endings}")
    counts = ", ".join(f"{count} {decision}" for decision, count in writer.counts.items() if count)
    sys.stdout.write(f"{counts or 'no images'}: {options.output}\n")
    if not folder.is_dir() and options.watch:
        raise FileNotFoundError(f"the watched folder {folder} has disappeared: start again when it is back.")
    return 1 if writer.counts["unreadable"] else 0


def _inspector(model: Path, device: str) -> Inspector:
    if model.suffix == ".onnx":
        if device != "cpu":
            raise ValueError(f"--device {device} is for model folders: {model} runs on the CPU.")
        try:
            from anomaly_zoo.deploy.runtime import OnnxInspector
        except ImportError as missing:
            raise ValueError(f"{missing}. An exported model needs `pip install anomaly_zoo[export]`.") from None
        return OnnxInspector(model)
    from anomaly_zoo.deploy.model_folder import load
    from anomaly_zoo.deploy.torch_inspector import TorchInspector

    return TorchInspector(load(model), device)


def _counted(paths: Iterator[Path], what: str, is_quiet: bool) -> Iterator[Path]:
    """The same, counted on the terminal; nothing is shown where the output is no terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed} images"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=is_quiet or not console.is_terminal) as progress:
        yield from progress.track(paths, description=what)


def _export(options: argparse.Namespace) -> int:
    from anomaly_zoo.deploy.export import export_onnx, quantise
    from anomaly_zoo.deploy.model_folder import load

    output = options.output or options.model / ("model.int8.onnx" if options.int8 else "model.onnx")
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder: name a file, such as {output / 'model.onnx'}.")
    model = load(options.model)
    calibration = model.calibration.at(options.threshold, options.false_alarm_rate)
    model = replace(model, calibration=calibration, warnings=model.warnings if options.threshold is None else ())
    warn(model.warnings)
    export_onnx(model, output)
    if options.int8:
        quantise(output, output)
    sys.stdout.write(f"Exported: {output} ({output.stat().st_size / 2**20:.1f} MiB)\n")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from anomaly_zoo.deploy.serve import serve

    serve(options.model, options.folder, options.method, options.option, options.host, int(options.port))
    return 0
