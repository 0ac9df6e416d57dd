"""The command line of the bench. Needs no torch."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from anomaly_zoo.yaml_files import SWEEPS, did_you_mean, expand, find_method, is_file, method_files, variants


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, with the nearest option for one that there is not."""

    def error(self, message: str) -> NoReturn:
        """Exits."""
        self.exit(2, f"{self.prog.rpartition('.')[2]}: {message}\n")

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Like `parse_args`."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            hint = did_you_mean(unknown[0].partition("=")[0], self._option_string_actions) or " --help lists all."
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")
        return options


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line; exits with code 2 where it cannot be read or names no method."""
    what = "Runs the grid method x dataset x category x shots x seed, on a laptop or on a cluster."
    of_each = [f"{file.stem}: {', '.join(variants(file.stem))}." for file in sorted(SWEEPS.glob("*.yaml"))]
    epilog = " ".join(["Variants of", *of_each, "METHOD_paper has those of METHOD."])
    parser = Parser("python -m anomaly_zoo.bench", description=what, epilog=epilog)
    _add_what(parser)
    add_where(parser)
    options = parser.parse(arguments)
    try:
        options.method = _choose(options.method)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    return options


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what to run").add_argument
    methods = f"{', '.join(method_files())}; a variant as METHOD:VARIANT (all: METHOD:all); or the path of a YAML file"
    add("--method", nargs="+", default=[], help=methods)
    add("--shots", type=int, nargs="+", default=[8], help="numbers of support images (8)")
    add("--dataset", nargs="+", help="mvtec_ad, elpv, or the name of what lies in --root")
    add("--root", type=Path, nargs="+", help="any folder in the MVTec layout (datasets/<dataset>)")
    add("--category", nargs="+", default=["all"], help="categories of the dataset (all)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    add("--backbone", nargs="+", help="a timm model name (tf_efficientnet_lite0); of several, each has a store")
    add("--weights", help="auto, none, or a weight file (auto)")
    add("--image-size", type=int, metavar="PX", help="side of the square images (256)")
    add("--results", type=Path, default=Path("results"), help="the results store (results)")
    add("--force", action="store_true", help="run finished runs again")
    add("--list-cells", action="store_true", help="print all runs with their numbers, and run nothing")
    add("--cell", type=int, metavar="N", help="only the run with this number in --list-cells")
    add("--dry-run", action="store_true", help="print what would run and how long it should take")


def add_where(parser: argparse.ArgumentParser) -> None:
    """Engines, and what they may use."""
    add = parser.add_argument_group("where to run it").add_argument
    engines = "serial: one after the other; local: all cores of this machine; ray: a cluster (serial)"
    add("--engine", choices=["serial", "local", "ray"], default="serial", help=engines)
    add("--workers", type=_at_least(1), metavar="N", help="runs at once with local (as cores and memory allow)")
    add("--threads", type=_at_least(1), metavar="N", help="cores of each run (local: all shared out; ray: 1)")
    add("--gpus", type=_share, metavar="SHARE", help="part of a GPU for each run, in (0, 1] (1 if there is one)")
    add("--address", help="of a Ray cluster that is running, or auto (a new one on this machine)")
    add("--retries", type=_at_least(0), default=2, metavar="N", help="of a run whose process or node died (2)")


def _choose(methods: list[str]) -> list[str]:
    """The methods, all variants in place of `METHOD:all`; a ValueError with what there is if one is not there."""
    for method in methods or [""]:
        name = method.partition(":")[0]
        if not is_file(method) and name not in method_files():
            said = f"unknown method {name!r}." if name else "Which method?"
            about = {known: file.read_text().partition("\n")[0].lstrip("# ") for known, file in method_files().items()}
            lines = "\n".join(f"  {known:15} {summary}" for known, summary in about.items())
            raise ValueError(f"{said} Choose one of these, or the path of a YAML file:\n{lines}")
    chosen = expand(methods)
    for method in chosen:
        find_method(method)
    return chosen


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} must be {least} or more")
        return int(text)

    return number


def _share(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be in (0, 1]")
    return float(text)
