"""`python -m anomaly_zoo.data list|prepare|check`: datasets into the MVTec layout, and what is wrong with them."""

import argparse
import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from anomaly_zoo.data.category import means_normal, survey
from anomaly_zoo.data.image_files import image_files, subfolders
from anomaly_zoo.data.prepare import elpv, own_folder
from anomaly_zoo.data.prepare.check import categories_in, files_of, ignored, inspect, is_category
from anomaly_zoo.data.prepare.commands import commands_to_run
from anomaly_zoo.data.prepare.conversion import PublicDataset, convert, differs_from_published, how_to_get
from anomaly_zoo.data.prepare.public_datasets import PUBLIC_DATASETS
from anomaly_zoo.data.prepare.tree import FINISHED, damaged_files, same_places

DATASETS = Path("datasets")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns 0; 1 if `check` found a problem, 2 if the request cannot be met, 130 after Ctrl-C."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    options = _parse(arguments)
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")  # names may be no text at all
    try:
        command: Callable[[argparse.Namespace, Console], int] = options.run
        return command(options, console)
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. The same command goes on with what is downloaded already.\n")
        return 130


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m anomaly_zoo.data", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="list|prepare|check")
    listing = commands.add_parser("list", help="the datasets that can be prepared")
    listing.set_defaults(run=_list)
    prepare = commands.add_parser("prepare", help="write a dataset, or a folder of your own, in the MVTec layout")
    prepare.add_argument("name", help="a dataset of `list`, or a folder with normal/ in it")
    prepare.add_argument("--from", dest="raw", type=Path, help="the dataset as published: an archive or a folder")
    prepare.add_argument("--to", type=Path, help=f"folder to create ({DATASETS}/<name>)")
    prepare.add_argument("--max-test", help="at most N normal and N anomalous test images per category, or all")
    prepare.add_argument("--labels", nargs="+", help="elpv: probabilities that count as anomalous, of 1/3 2/3 1 (1)")
    prepare.add_argument("--num-train", type=int, help="own folder: normal images for training (half of them)")
    prepare.set_defaults(run=_prepare)
    check = commands.add_parser("check", help="read every file of a dataset or folder; say what is there and what not")
    check.add_argument("name", help="a dataset of `list` that is prepared, or any folder in one of the two layouts")
    check.set_defaults(run=_check)
    return parser.parse_args(arguments)


def _list(_: argparse.Namespace, console: Console) -> int:
    for name, dataset in PUBLIC_DATASETS.items():
        there = f"prepared in {DATASETS / name}" if (DATASETS / name / FINISHED).is_file() else ""
        get = there or ("`prepare` downloads it" if dataset.download else dataset.by_hand)
        console.print(f"{name:14} {dataset.licence}\n{'':14} {get}")
    return 0


def _prepare(options: argparse.Namespace, console: Console) -> int:
    folder = Path(options.name).expanduser()
    own = own_folder.is_own_folder(folder)
    _check_options(options, own)
    if own:
        target = options.to or DATASETS / folder.resolve().name
        own_folder.prepare(folder, target, options.num_train, _max_test(options.max_test, None))
    else:
        dataset = _dataset(options.name)
        target = (options.to or DATASETS / options.name).expanduser()
        if not (target / FINISHED).is_file():
            console.print(f"{dataset.licence}\nPlease cite: {dataset.citation}")
        max_test = _max_test(options.max_test, dataset.max_test)
        if options.name == "elpv":
            elpv.prepare(target, options.raw, max_test, options.labels or elpv.DEFAULT_LABELS)
        else:
            _convert(dataset, target, options.raw, max_test, console)
        if difference := differs_from_published(dataset, target):
            console.print(f"note: {difference}")
    console.print(commands_to_run(target, files_of(*categories_in(target))))
    return 0


def _check_options(options: argparse.Namespace, own: bool) -> None:
    """Refuses options that would have no effect."""
    if options.labels is not None and (own or options.name != "elpv"):
        raise ValueError("--labels is for elpv only")
    if options.num_train is not None and not own:
        raise ValueError("--num-train is for a folder of your own only: a public dataset has its split")
    if options.raw is not None and own:
        raise ValueError(f"--from is for public datasets: {options.name} is a folder of your own already")


def _max_test(text: str | None, default: int | None) -> int | None:
    if text is None or text == "all":
        return default if text is None else None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--max-test is {text!r}: choose a number from 1, or all")
    return int(text)


def _dataset(name: str) -> PublicDataset:
    if name in PUBLIC_DATASETS:
        return PUBLIC_DATASETS[name]
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        raise ValueError(_no_layout(folder))
    raise ValueError(f"{name!r} is neither a dataset ({', '.join(PUBLIC_DATASETS)}) nor a folder with normal/ in it")


def _convert(dataset: PublicDataset, target: Path, raw: Path | None, max_test: int | None, console: Console) -> None:
    """Converts, with a bar while it downloads."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    # In a log, a bar would be an empty line
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as bar:
        task = bar.add_task("", visible=False)

        def show(have: int, total: int) -> None:
            bar.update(task, completed=have, total=total or None, visible=True)

        convert(dataset, target, raw, max_test, show)


def _check(options: argparse.Namespace, console: Console) -> int:
    folder = _folder(options.name)
    own, category = own_folder.is_own_folder(folder), is_category(folder)
    try:
        files = own_folder.arrange(folder) if own else files_of(*((folder,) if category else categories_in(folder)))
    except (ValueError, FileNotFoundError) as error:
        console.print(f"problem: {error}")
        return 1
    if not files:
        raise ValueError(_no_layout(folder))
    reports = list(inspect(files))
    problems, notes = survey(folder, [path for path in files.values() if isinstance(path, Path)])
    for report in reports:
        lines = [report.name, *report.found, *_marked("note", report.notes), *_marked("problem", report.problems)]
        console.print("\n  ".join(lines))
    problems += damaged_files(folder) + (same_places(files) if own else [])
    for line in [*ignored(folder), *_marked("note", notes), *_marked("problem", problems)]:
        console.print(line)
    number = len(problems) + sum(len(report.problems) for report in reports)
    if number:
        console.print("1 problem: mend it first." if number == 1 else f"{number} problems: mend them first.")
        return 1
    if own:
        console.print(f"python -m anomaly_zoo.data prepare {shlex.quote(str(folder))}")
    root = DATASETS / folder.resolve().name if own else folder.absolute().parent if category else folder
    console.print(commands_to_run(root, files, next(iter(files)).partition("/")[0] if category else ""))
    return 0


def _marked(mark: str, lines: list[str]) -> list[str]:
    return [f"{mark}: {line}" for line in lines]


def _folder(name: str) -> Path:
    """The folder to check."""
    given = Path(name).expanduser()
    if name and given.is_dir():
        return given
    if given.is_file():
        raise ValueError(f"{given} is a file: check the folder that holds the dataset")
    dataset = _dataset(name)
    if not (DATASETS / name).is_dir():
        first = f"prepare it first, python -m anomaly_zoo.data prepare {name}."
        by_hand = "" if dataset.download else f" {how_to_get(dataset)}"
        raise FileNotFoundError(f"{DATASETS / name} is not there: {first}{by_hand}")
    return DATASETS / name


def _no_layout(folder: Path) -> str:
    """Why a folder is no dataset, and what to do about it."""
    said = f"{folder} holds neither normal/ (a folder of your own) nor <category>/train/good/ (the MVTec layout)"
    if categories_in(folder) or is_category(folder):
        return f"{folder} is in the MVTec layout already: there is nothing to prepare; check it and use it"
    if inner := [sub for sub in subfolders(folder) if own_folder.is_own_folder(sub)]:
        return f"{folder} holds folders of your own: pass one of them, such as {inner[0]}"
    if named := [sub for sub in subfolders(folder) if means_normal(sub.name)]:
        return f"{said}: rename {named[0]} to normal, and the folder of anomalous images to anomalous"
    if images := image_files(folder):
        return f"{said}: move the normal ones of its {len(images)} images into {folder / own_folder.NORMAL}"
    return said


if __name__ == "__main__":
    sys.exit(main())
