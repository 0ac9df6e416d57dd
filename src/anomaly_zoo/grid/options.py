"""The command line of the bench. Needs no torch."""

import argparse
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from anomaly_zoo.yaml_files import SWEEPS, expand, find_method, is_file, method_files, variants

_WHAT = "Runs the grid method x dataset x category x shots x seed, on a laptop or on a cluster."


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line; exits with code 2 where it cannot be read or names no method."""
    parser = argparse.ArgumentParser("python -m anomaly_zoo.bench", description=_WHAT, epilog=_variants())
    what = parser.add_argument_group("what to run")
    methods = f"{', '.join(method_files())}; a variant as METHOD:VARIANT (all: METHOD:all); or the path of a YAML file"
    what.add_argument("--method", nargs="+", default=[], help=methods)
    what.add_argument("--shots", type=int, nargs="+", default=[8], help="numbers of support images (8)")
    what.add_argument("--dataset", nargs="+", help="mvtec_ad, elpv, or the name of what lies in --root")
    what.add_argument("--root", type=Path, nargs="+", help="any folder in the MVTec layout (datasets/<dataset>)")
    what.add_argument("--category", nargs="+", default=["all"], help="categories of the dataset (all)")
    what.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    what.add_argument(
        "--backbone", nargs="+", help="a timm model name (tf_efficientnet_lite0); of several, each has a store"
    )
    what.add_argument("--weights", help="auto, none, or a weight file (auto)")
    what.add_argument("--image-size", type=int, metavar="PX", help="side of the square images (256)")
    what.add_argument("--results", type=Path, default=Path("results"), help="the results store (results)")
    what.add_argument("--force", action="store_true", help="run finished runs again")
    what.add_argument("--list-cells", action="store_true", help="print all runs with their numbers, and run nothing")
    what.add_argument("--cell", type=int, metavar="N", help="only the run with this number in --list-cells")
    what.add_argument("--dry-run", action="store_true", help="print what would run and how long it should take")
    where = parser.add_argument_group("where to run it")
    engines = "serial: one after the other; local: all cores of this machine; ray: a cluster (serial)"
    where.add_argument("--engine", choices=["serial", "local", "ray"], default="serial", help=engines)
    where.add_argument(
        "--workers", type=_at_least(1), metavar="N", help="runs at once with local (as cores and memory allow)"
    )
    where.add_argument(
        "--threads", type=_at_least(1), metavar="N", help="cores of each run (local: all shared out; ray: 1)"
    )
    where.add_argument(
        "--gpus", type=_share, metavar="SHARE", help="part of a GPU for each run, in (0, 1] (1 if there is one)"
    )
    where.add_argument("--address", help="of a Ray cluster that is running, or auto (a new one on this machine)")
    where.add_argument(
        "--retries", type=_at_least(0), default=2, metavar="N", help="of a run whose process or node died (2)"
    )
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        near = difflib.get_close_matches(unknown[0].partition("=")[0], parser._option_string_actions, n=1)
        hint = f". Did you mean {near[0]}?" if near else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    _choose_methods(parser, options)
    return options


def _variants() -> str:
    """What `--help` says last."""
    files = sorted(SWEEPS.glob("*.yaml"))
    of_each = [f"{file.stem}: {', '.join(variants(file.stem))}." for file in files]
    return " ".join(["Variants of", *of_each, "METHOD_paper has those of METHOD."])


def _choose_methods(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Puts all variants in place of `METHOD:all`; exits with what there is if a method or a variant is not there."""
    for method in options.method or [""]:
        name = method.partition(":")[0]
        if not is_file(method) and name not in method_files():
            _refuse_method(parser, name)
    try:
        options.method = expand(options.method)
        for method in options.method:
            find_method(method)
    except ValueError as error:
        parser.exit(2, f"{error}\n")


def _refuse_method(parser: argparse.ArgumentParser, method: str) -> NoReturn:
    said = f"unknown method {method!r}." if method else "Which method?"
    summaries = {name: file.read_text().partition("\n")[0].lstrip("# ") for name, file in method_files().items()}
    lines = "\n".join(f"  {name:15} {summary}" for name, summary in summaries.items())
    parser.exit(2, f"{said} Choose one of these, or the path of a YAML file:\n{lines}\n")


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
