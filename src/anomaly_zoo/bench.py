"""`python -m anomaly_zoo.bench`: the grid category x shots x seed of one method, one run after the other.

Finished runs are skipped, a failing one is recorded and the rest goes on; the grid ends with a table.
"""

import argparse
import copy
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from anomaly_zoo.compare import print_table
from anomaly_zoo.config import build, method_files, resolve
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.sources import elpv
from anomaly_zoo.results import Result, conflicting_keys, load, result_path, save
from anomaly_zoo.run import describe, run

Config = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Runs the grid. Returns 0; 1 if a run failed, 2 if the request itself cannot be met, 130 after Ctrl-C."""
    console = Console(highlight=False, soft_wrap=True)
    options = _parse(arguments)
    method = Path(options.method).stem
    try:
        configs = _grid(options, *_choose_dataset(options.dataset, options.root, console))
        todo = list(_unfinished(configs, method, options.results, options.force))
        _check(todo, console)
        if len(todo) < len(configs):
            finished = f"{len(configs) - len(todo)} of {len(configs)} runs are finished already"
            console.print(f"{finished} (--force runs them again).")
        failed = _run_all(todo, method, options.results, console)
    except (ValueError, OSError, ImportError, MisconfigurationException) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        sys.stderr.write("Interrupted. The same command goes on where this one ended: finished runs are kept.\n")
        return 130
    print_table([load(_path(config, method, options.results)) for config in configs] + _baseline(configs, options))
    return 1 if failed else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m anomaly_zoo.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="", help=f"{', '.join(method_files())}; or the path of a YAML file")
    parser.add_argument("--shots", type=int, nargs="+", default=[8], help="numbers of support images (8)")
    parser.add_argument("--dataset", help="mvtec_ad, elpv, or the name of what lies in --root")
    parser.add_argument("--root", type=Path, help="any folder in the MVTec layout (datasets/<dataset>)")
    parser.add_argument("--category", nargs="+", default=["all"], help="categories of the dataset (all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--backbone", help="a timm model name (tf_efficientnet_lite0)")
    parser.add_argument("--weights", help="auto, none, or a weight file (auto)")
    parser.add_argument("--image-size", type=int, metavar="PX", help="side of the square images (256)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the results store (results)")
    parser.add_argument("--force", action="store_true", help="run finished runs again")
    options = parser.parse_args(arguments)
    if not options.method or (options.method not in method_files() and not Path(options.method).is_file()):
        said = f"unknown method {options.method!r}." if options.method else "Which method?"
        summaries = {name: file.read_text().partition("\n")[0].lstrip("# ") for name, file in method_files().items()}
        lines = "\n".join(f"  {name:15} {summary}" for name, summary in summaries.items())
        parser.exit(2, f"{said} Choose one of these, or the path of a YAML file:\n{lines}\n")
    return options


def _choose_dataset(name: str | None, root: Path | None, console: Console) -> tuple[str, Path]:
    """The dataset's name and folder; ELPV, which a Python package brings, where there is nothing else."""
    mvtec = Path(os.environ.get("MVTEC_ROOT") or "datasets/mvtec_ad")
    if root is not None:
        name = name or root.resolve().name
    elif name is None:
        name = "mvtec_ad" if os.environ.get("MVTEC_ROOT") or mvtec.is_dir() else "elpv"
        console.print(
            f"Dataset {name}. For another: --root FOLDER in the MVTec layout (make: ROOT=), or set MVTEC_ROOT."
        )
    if root is None:
        root = mvtec if name == "mvtec_ad" else Path("datasets") / name
        if name == "elpv":
            if not root.exists():
                console.print(f"ELPV: {elpv.LICENCE} {elpv.CITATION}", style="dim", markup=False)
            elpv.prepare(root)
    return name, root


def _grid(options: argparse.Namespace, dataset: str, root: Path) -> list[Config]:
    """One resolved configuration per run."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder. Pass --root (make: ROOT=) with a folder in the MVTec layout.")
    categories = options.category
    if categories == ["all"]:
        categories = sorted(path.name for path in root.iterdir() if (path / "train").is_dir())
        if not categories:
            hint = f" It is one itself: pass its parent, {root.resolve().parent}." if (root / "train").is_dir() else ""
            raise FileNotFoundError(f"{root} holds no category, which is a folder with train/good in it.{hint}")
    chosen = {
        "backbone.name": options.backbone,
        "backbone.weights": options.weights,
        "data.image_size": options.image_size,
    }
    fixed = [f"--{key}={value}" for key, value in chosen.items() if value is not None]
    data = [f"--data.root={root}", f"--data.dataset={dataset}", f"--data.category={categories[0]}"]
    base = resolve(options.method, [*data, *fixed, "--trainer.enable_progress_bar=false"])
    configs = []
    for category in categories:
        for shots in dict.fromkeys(options.shots):
            for seed in dict.fromkeys(options.seeds):
                config = copy.deepcopy(base)
                config["seed_everything"] = seed
                config["data"] |= {"category": category, "shots": shots}
                configs.append(config)
    return configs


def _check(configs: list[Config], console: Console) -> None:
    """Fails before any long work: the weights, the method's numbers, the supports, every image that will be read."""
    for config in configs[:1]:  # one batch, since that imports what the first run's clock would measure otherwise
        next(iter(build(config).datamodule.train_dataloader()))
    seen = set()
    with console.status("Checking the images") as status:
        for config in sorted(configs, key=lambda config: -config["data"]["shots"]):  # a support holds the smaller ones
            data = MVTecDataModule(**config["data"], seed=config["seed_everything"])
            data.setup()
            if (data.category, data.seed) not in seen:
                status.update(f"Checking the images of {escape(data.category)}, seed {data.seed}")
                data.support()
            if data.category not in seen:
                for _ in data.test_dataloader():
                    pass
            seen |= {data.category, (data.category, data.seed)}


def _unfinished(configs: list[Config], method: str, store: Path, force: bool) -> Iterator[Config]:
    """The runs that the store does not hold yet.

    Raises:
        ValueError: the store holds a run of the same name with other settings.
    """
    for config in configs:
        path = _path(config, method, store)
        result = load(path) if path.is_file() and not force else None
        if result is None or result.status == "failed":
            yield config
        elif keys := _conflicts(result.config, config):
            raise ValueError(
                f"{path} was made with other settings ({', '.join(keys)}). "
                "Keep both with another --results folder, or replace it with --force."
            )


def _conflicts(old: Config, new: Config) -> list[str]:
    """Keys that differ; not `data.root` if it is the same folder, spelled differently."""
    roots = {Path(config.get("data", {}).get("root", "")).resolve() for config in (old, new)}
    return [key for key in conflicting_keys(old, new) if key != "data.root" or len(roots) > 1]


def _run_all(configs: list[Config], method: str, store: Path, console: Console) -> list[Result]:
    """Runs and saves one after the other. Returns the results of those that failed."""
    failed = []
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(method, total=len(configs))
        for config in configs:
            data = config["data"]
            name = f"{method} {data['category']} shots={data['shots']} seed={config['seed_everything']}"
            progress.update(task, description=name)
            result = _run_one(config, method, store)
            if result.status == "failed":
                failed.append(result)
                console.print(f"[red]failed:[/] {escape(name)}: {escape((result.error or '').splitlines()[-1])}")
            elif not console.is_terminal:
                scores = ", ".join(
                    f"{key} {result.metrics[key]:.3f}" for key in ("image_auroc", "aupro") if key in result.metrics
                )
                console.print(f"{name}: {scores}", markup=False)
            progress.advance(task)
    return failed


def _run_one(config: Config, method: str, store: Path) -> Result:
    """Runs and saves. An error becomes a failed result with its traceback, which ends with the error in one line."""
    try:
        result = run(config, method, store)
        save(result, store)
    except Exception as error:
        trace = traceback.format_exc().rstrip()
        brief = f"{type(error).__name__}: {error}".splitlines()[0]
        trace += "" if trace.endswith(brief) else f"\n{brief}"
        result = Result(**describe(config, method), status="failed", error=trace)
        save(result, store)
    return result


def _baseline(configs: list[Config], options: argparse.Namespace) -> list[Result]:
    """The frozen reference's results for the same runs, where the store holds them."""
    if Path(options.method).stem == "patchcore":
        return []
    return [load(path) for config in configs if (path := _path(config, "patchcore", options.results)).is_file()]


def _path(config: Config, method: str, store: Path) -> Path:
    data = config["data"]
    return result_path(store, data["dataset"], data["category"], method, data["shots"], config["seed_everything"])


if __name__ == "__main__":
    sys.exit(main())
