"""What the grid of a store lacks, as `bench` commands that fill it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

from anomaly_zoo.results import Result
from anomaly_zoo.yaml_files import name_in_results


def commands(
    results: Sequence[Result],
    store: Path,
    methods: Iterable[str],
    datasets: Sequence[str] = (),
    shots: Sequence[int] = (),
    seeds: Sequence[int] = (),
) -> Iterator[list[str]]:
    """The arguments of `bench` for every missing part of the grid methods x categories x shots x seeds.

    The grid is what the store holds and the options ask for; what exists decides folders, backbone and image size.
    """
    if store.is_file():
        raise ValueError(f"{store} is a file of kept results: new runs need a folder. It can only be read.")
    wanted = {name_in_results(method): method for method in methods}
    end = ["--results", str(store)]
    known = [run for run in results if not datasets or run.dataset in datasets]
    if not known:
        options = {"--dataset": datasets, "--shots": shots, "--seeds": seeds}
        asked = [text for name, some in options.items() if some for text in (name, *map(str, some))]
        yield ["--method", *wanted.values(), *asked, *end]
        return
    done = {(run.dataset, run.category, run.method, run.shots, run.seed) for run in known if run.status == "ok"}
    seeds = seeds or sorted({run.seed for run in known})
    for dataset in sorted({run.dataset for run in known}):
        runs = [run for run in known if run.dataset == dataset]
        categories = sorted({run.category for run in runs})
        grids = defaultdict(list)
        for name, k in product(wanted, shots or sorted({run.shots for run in known})):
            lacking = {
                category: tuple(seed for seed in seeds if (dataset, category, name, k, seed) not in done)
                for category in categories
            }
            for some in dict.fromkeys(filter(None, lacking.values())):
                grids[k, some, tuple(c for c in categories if lacking[c] == some)].append(wanted[name])
        for (k, some, where), several in grids.items():
            runs_of = ["--shots", str(k), "--category", *where, "--seeds", *map(str, some)]
            yield ["--method", *several, *runs_of, *_protocol(runs[0]), *end]


def _protocol(run: Result) -> list[str]:
    """What all runs of a dataset share: that which `bench` can be told of their protocol."""
    data, backbone = run.config.get("data", {}), run.config.get("backbone", {})
    root = data.get("root")
    options = {
        "--dataset": run.dataset,
        "--root": None if root == f"datasets/{run.dataset}" else root,  # bench looks there, or puts ELPV there, anyway
        "--backbone": backbone.get("name"),
        "--weights": backbone.get("weights"),
        "--image-size": data.get("image_size"),
    }
    return [text for option, value in options.items() if value is not None for text in (option, str(value))]
