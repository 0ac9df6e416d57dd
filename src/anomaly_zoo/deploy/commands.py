"""`python -m anomaly_zoo predict --model | export | serve`: what is done with an adapted method."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from anomaly_zoo.deploy.files import find_images, watch_folder
from anomaly_zoo.deploy.inspecting import Inspector, inspect_files, is_whole
from anomaly_zoo.deploy.outputs import PredictionWriter

COMMANDS = ("predict", "export", "serve")
Advance = Callable[[int], None]
_MODEL_HELP = "folder written by `fit --output`"


def meant(arguments: Sequence[str]) -> bool:
    """Whether a command line is for this module; `predict --ckpt_path` is Lightning's, for a test split.

    Example:
        >>> meant(["predict", "--model", "model", "images"]), meant(["predict", "--ckpt_path", "adapted.ckpt"])
        (True, False)
    """
    lightnings = ("--ckpt_path", "--config", "-c", "--print_config")
    return arguments[:1] in (["export"], ["serve"]) or (
        arguments[:1] == ["predict"] and not any(argument.split("=")[0] in lightnings for argument in arguments)
    )


def main(arguments: Sequence[str]) -> int:
    """Runs one of the commands; 1 if a file could not be read.

    Raises:
        ValueError: a wrong option, or a model that cannot be used.
        OSError: a file or folder is missing.
    """
    options = _parser().parse_args(arguments)
    if options.command == "predict":
        return _predict(options)
    if options.command == "export":
        return _export(options)
    return _serve(options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Becomes one line, as every mistake on the command line."""
        raise ValueError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("python -m anomaly_zoo")
    commands = parser.add_subparsers(dest="command", required=True)

    predict = commands.add_parser(
        "predict",
        description="Inspects images: predictions.csv, predictions.jsonl, overlays and a contact sheet. "
        "(With --config and --ckpt_path: the scores of a test split.)",
    )
    predict.add_argument("--model", required=True, type=Path, help=f"{_MODEL_HELP}, or a file written by `export`")
    predict.add_argument("images", nargs="+", help="files, folders or quoted patterns")
    predict.add_argument("--output", required=True, type=Path, help="folder for what is found")
    predict.add_argument(
        "--overlays", choices=("anomalous", "all", "none"), default="anomalous", help="of which images"
    )
    predict.add_argument("--batch-size", type=_positive, default=8, help="images in memory at once")
    predict.add_argument("--device", default="cpu", help="cpu, cuda, ...; a model folder only")
    predict.add_argument("--watch", action="store_true", help="go on with whatever appears in the folder, until Ctrl-C")
    predict.add_argument("--quiet", action="store_true", help="no progress")

    export = commands.add_parser("export", description="Writes a model folder as one file for onnxruntime or OpenVINO.")
    export.add_argument("--model", required=True, type=Path, help=_MODEL_HELP)
    export.add_argument("--format", choices=("onnx",), default="onnx")
    export.add_argument("--output", type=Path, help="file; by default model.onnx in the model folder")
    export.add_argument(
        "--int8", action="store_true", help="weights of 8 bits; measure what it costs, see docs/deploy.md"
    )

    serve = commands.add_parser("serve", description="A page to drop images on; for this machine only, by default.")
    serve.add_argument("--model", type=Path, help=f"{_MODEL_HELP}; without it, adapt a product on the page")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    serve.add_argument("--method", default="frozen", help="for new products: a name in configs/methods")
    serve.add_argument("--folder", type=Path, default=Path("products"), help="where new products' models are kept")
    serve.add_argument(
        "--option", action="append", default=[], help="of the configuration, such as --backbone.name=..."
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def _predict(options: argparse.Namespace) -> int:
    folders = [Path(source) for source in options.images]
    if options.watch and (len(folders) != 1 or not folders[0].is_dir()):
        raise ValueError(f"--watch needs one folder, not {' '.join(options.images)}")
    inspector = _inspector(options.model, options.device)
    writer = PredictionWriter(
        options.output, inspector.threshold, inspector.scale, options.overlays, append=options.watch
    )
    with writer, _bar(options.quiet, "watching" if options.watch else "inspecting") as advance:
        if options.watch:
            _watch(inspector, folders[0], writer, advance)
        else:
            inspect_files(inspector, find_images(options.images), writer, options.batch_size, advance)
        if not sum(writer.counts.values()) and not options.watch:
            raise FileNotFoundError(f"no images in {' '.join(options.images)}: none ends in .png, .jpg, .bmp, .tif ...")
    counts = ", ".join(f"{count} {decision}" for decision, count in writer.counts.items() if count)
    sys.stdout.write(f"{counts or 'no images'}: {options.output}\n")
    return 1 if writer.counts["unreadable"] else 0


def _watch(inspector: Inspector, folder: Path, writer: PredictionWriter, advance: Advance) -> None:
    paths = watch_folder(folder, writer.known, partial(is_whole, inspector))
    with suppress(KeyboardInterrupt):  # the way to end it
        inspect_files(inspector, paths, writer, batch_size=1, progress=advance)


def _inspector(model: Path, device: str) -> Inspector:
    if model.suffix == ".onnx":
        from anomaly_zoo.deploy.runtime import OnnxInspector

        return OnnxInspector(model)
    from anomaly_zoo.deploy.model_folder import load
    from anomaly_zoo.deploy.torch_inspector import TorchInspector

    return TorchInspector(load(model), device)


def _export(options: argparse.Namespace) -> int:
    from anomaly_zoo.deploy.export import export_onnx, quantise
    from anomaly_zoo.deploy.model_folder import load

    output = options.output or options.model / ("model.int8.onnx" if options.int8 else "model.onnx")
    export_onnx(load(options.model), output)
    if options.int8:
        quantise(output, output)
    sys.stdout.write(f"Exported: {output} ({output.stat().st_size / 2**20:.1f} MiB)\n")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from anomaly_zoo.deploy.serve import serve

    serve(options.model, options.folder, options.method, options.option, options.host, options.port)
    return 0


@contextmanager
def _bar(is_quiet: bool, what: str) -> Iterator[Advance]:
    """Counts the images on the terminal; nothing where the output is no terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed} images"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=is_quiet or not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done: progress.update(task, completed=done)
