"""Keeps finished runs in one small file, and lays them out as a results store again.

    python benchmarks/kept_results.py pack results --to benchmarks/results/shots8.jsonl.xz
    python benchmarks/kept_results.py unpack benchmarks/results/shots8.jsonl.xz --to results
    python -m anomaly_zoo.compare results

Every line is a run with all that its result says: scores of all test images, support, configuration, versions, commit.
Folders of the machine are left out: the dataset's folder becomes `datasets/<dataset>`.
"""

import argparse
import json
import lzma
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anomaly_zoo.files import write_whole
from anomaly_zoo.results import Result, load_all, save


def without_folders(result: Result) -> dict[str, Any]:
    """The fields of a result, with `datasets/<dataset>` in place of where the dataset lies."""
    root, new = str(Path(result.config["data"]["root"])), f"datasets/{result.dataset}"
    fields = asdict(result)
    fields["config"]["data"]["root"] = new
    for image in fields["images"]:
        if not image["path"].startswith(f"{root}/"):
            raise ValueError(f"{image['path']} of {result.method}, {result.category} does not lie in {root}.")
        image["path"] = new + image["path"].removeprefix(root)
    return fields


def pack(stores: list[Path], file: Path) -> int:
    """Writes all runs of the stores into one file; returns how many.

    Raises:
        ValueError: there is no run, a run is in two stores, or a failed one.
    """
    results = sorted((r for store in stores for r in load_all(store)), key=lambda r: str(r.path_in(Path())))
    places = [result.path_in(Path()) for result in results]
    for number, result in enumerate(results):
        if places[number] in places[:number] or result.status != "ok":
            raise ValueError(f"{places[number]}: it is in two stores, or failed. Remove one, or run it again.")
    if not results:
        raise ValueError(f"no run in {', '.join(map(str, stores))}.")
    lines = [json.dumps(without_folders(result), separators=(",", ":")) for result in results]
    write_whole(file, lzma.compress("\n".join(lines).encode() + b"\n", preset=9))
    return len(results)


def unpack(file: Path, store: Path) -> int:
    """Saves all runs of a file in a store, where nothing is replaced; returns how many are new."""
    new = [result for result in load_all(file) if not result.path_in(store).exists()]
    for result in new:
        save(result, store)
    return len(new)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="results stores into one file")
    packing.add_argument("stores", type=Path, nargs="+")
    packing.add_argument("--to", type=Path, required=True, metavar="FILE")
    unpacking = commands.add_parser("unpack", help="such a file into a results store")
    unpacking.add_argument("file", type=Path)
    unpacking.add_argument("--to", type=Path, required=True, metavar="STORE")
    options = parser.parse_args()
    if options.command == "pack":
        print(f"{pack(options.stores, options.to)} runs in {options.to}, {options.to.stat().st_size // 1024} KiB")
    else:
        print(f"{unpack(options.file, options.to)} runs added to {options.to}")


if __name__ == "__main__":
    main()
