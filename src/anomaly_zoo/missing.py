"""`compare --run`: the cells that the grid of a store lacks, and the `bench` commands that fill them."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby, product
from pathlib import Path

from anomaly_zoo.results import Result, load_all
from anomaly_zoo.yaml_files import name_in_results

_BENCH = (sys.executable, "-m", "anomaly_zoo.bench")


def fill(store: Path, methods: Sequence[str], datasets: Sequence[str], shots: Sequence[int], baseline: str) -> None:
    """Runs what is missing, one `bench` process after the other, whose words go to the terminal.

    Raises:
        ValueError: a command could not be met; failed runs are results, and do not end the rest.
    """
    for command in commands(load_all(store), store, methods, datasets, shots, baseline):
        code = subprocess.run([*_BENCH, *command], check=False).returncode  # noqa: S603
        if code not in (0, 1):
            raise ValueError(f"`python -m anomaly_zoo.bench {' '.join(command)}` ended with code {code}, see above")


def commands(
    results: Sequence[Result],
    store: Path,
    methods: Sequence[str],
    datasets: Sequence[str],
    shots: Sequence[int],
    baseline: str,
) -> Iterator[list[str]]:
    """The arguments of `bench` for every missing part of the grid methods x categories x shots x seeds.

    The grid is what the store holds and the options ask for. What exists decides the dataset's folder, the backbone,
    its weights and the image size. An empty store is filled with `bench`'s own choices.
    """
    asked = list(dict.fromkeys([*methods, *([] if baseline in map(name_in_results, methods) else [baseline])]))
    known = [run for run in results if not datasets or run.dataset in datasets]
    if not known:
        for method, dataset in product(asked, datasets or [""]):
            options = [*(["--dataset", dataset] if dataset else []), *(["--shots", *map(str, shots)] if shots else [])]
            yield ["--method", method, *options, "--results", str(store)]
        return
    wanted = asked if methods else list(dict.fromkeys([run.method for run in known] + asked))
    done = {(run.dataset, run.category, run.method, run.shots, run.seed) for run in known if run.status == "ok"}
    all_shots = shots or sorted({run.shots for run in known})
    seeds = sorted({run.seed for run in known})
    for dataset, group in groupby(sorted(known, key=lambda run: run.dataset), key=lambda run: run.dataset):
        runs = list(group)
        fixed = _fixed(runs[0], store)
        for method, k in product(wanted, all_shots):
            name = name_in_results(method)
            lacking: dict[str, list[int]] = {}
            for category, seed in product(sorted({run.category for run in runs}), seeds):
                if (dataset, category, name, k, seed) not in done:
                    lacking.setdefault(category, []).append(seed)
            for some, categories in groupby(sorted(lacking, key=lacking.__getitem__), key=lacking.__getitem__):
                cells = ["--shots", str(k), "--category", *categories, "--seeds", *map(str, some)]
                yield ["--method", method, *cells, *fixed]


def _fixed(run: Result, store: Path) -> list[str]:
    """What all runs of a dataset share: that which `bench` can be told of their protocol."""
    data, backbone = run.config.get("data", {}), run.config.get("backbone", {})
    root = data.get("root")
    options = {
        "--dataset": run.dataset,
        # Where bench looks anyway, and puts an embedded dataset that is not there yet
        "--root": None if root == f"datasets/{run.dataset}" else root,
        "--backbone": backbone.get("name"),
        "--weights": backbone.get("weights"),
        "--image-size": data.get("image_size"),
        "--results": store,
    }
    return [text for option, value in options.items() if value is not None for text in (option, str(value))]
