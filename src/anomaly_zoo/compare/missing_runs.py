"""What the grid of a store lacks, as `bench` commands that fill it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby, product
from pathlib import Path

from anomaly_zoo.results import Result
from anomaly_zoo.yaml_files import name_in_results


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
    for dataset in sorted({run.dataset for run in known}):
        runs = [run for run in known if run.dataset == dataset]
        for method, k in product(wanted, all_shots):
            lacking: dict[str, list[int]] = defaultdict(list)
            for category, seed in product(sorted({run.category for run in runs}), seeds):
                if (dataset, category, name_in_results(method), k, seed) not in done:
                    lacking[category].append(seed)
            for some, categories in groupby(sorted(lacking, key=lacking.__getitem__), key=lacking.__getitem__):
                cells = ["--shots", str(k), "--category", *categories, "--seeds", *map(str, some)]
                yield ["--method", method, *cells, *_protocol(runs[0]), "--results", str(store)]


def _protocol(run: Result) -> list[str]:
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
    }
    return [text for option, value in options.items() if value is not None for text in (option, str(value))]
