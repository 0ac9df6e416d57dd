"""The project's W&B dashboard, built from code: `python -m anomaly_zoo.dashboards show|save|sync`.

`show` prints it as JSON and needs no network; `save` creates it in the project on the server; `sync` uploads the runs
that were tracked offline. The last two need `wandb login`. Needs the extra `dashboards`.
"""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomaly_zoo.measures import COSTS, SCORES
from anomaly_zoo.tracking import PROJECT

_PINNED = ("image_auroc", "aupro", "adapt_s", "ms_per_image")


def workspace(entity: str, project: str = PROJECT) -> Any:
    """The dashboard: scores and costs by method, training curves, image curves, pictures. Nothing is sent.

    Raises:
        ImportError: the extra `dashboards` is not installed.
    """
    try:
        ws = importlib.import_module("wandb_workspaces.workspaces")
        wr = importlib.import_module("wandb_workspaces.reports.v2")
        config = importlib.import_module("wandb_workspaces.expr").Config
    except ImportError as error:
        raise ImportError("dashboards need wandb-workspaces: pip install 'anomaly_zoo[dashboards]'") from error

    def bars(name: str) -> Any:
        return wr.BarPlot(
            title=name, metrics=[wr.SummaryMetric(f"final/{name}")], groupby=wr.Config("method"),
            groupby_aggfunc="mean", groupby_rangefunc="stddev",
        )  # fmt: skip

    x, y = wr.SummaryMetric("final/adapt_s"), wr.SummaryMetric("final/image_auroc")
    over_time = wr.ScatterPlot(title="Score over adaptation time", x=x, y=y, log_x=True)
    loss = wr.LinePlot(title="Loss", x="trainer/global_step", y=["train/loss"])
    gallery = wr.MediaBrowser(title="Image, ground truth, anomaly map", media_keys=["test/pictures"], num_columns=2)
    return ws.Workspace(
        entity=entity,
        project=project,
        name="anomaly_zoo: methods side by side",
        sections=[
            ws.Section(name="Scores, higher is better", panels=[*map(bars, SCORES), over_time], is_open=True),
            ws.Section(name="Costs, lower is better", panels=[*map(bars, COSTS)], is_open=False),
            ws.Section(name="Training", panels=[loss], is_open=False),
            ws.Section(name="Test images", panels=[gallery], is_open=True),
        ],
        runset_settings=ws.RunsetSettings(
            groupby=[config("dataset"), config("shots"), config("method")],
            pinned_columns=["run:displayName", *(f"summary:final/{name}" for name in _PINNED)],
        ),
        auto_generate_panels=False,
    )


def offline_runs(store: Path) -> list[Path]:
    """The folders of all runs in a store that were tracked offline and have not been uploaded."""
    folders = sorted(store.rglob("wandb/offline-run-*"))
    return [folder for folder in folders if folder.is_dir() and not list(folder.glob("*.synced"))]


def sync(store: Path) -> int:
    """Uploads the offline runs of a store; returns 0, or 1 if some could not be uploaded.

    Raises:
        ValueError: nobody is logged in.
    """
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise ValueError("nobody is logged in to W&B: run `wandb login`, or set WANDB_API_KEY")
    command = [sys.executable, "-m", "wandb", "sync"]
    done = [subprocess.run([*command, str(folder)], check=False) for folder in offline_runs(store)]  # noqa: S603
    return int(any(upload.returncode for upload in done))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, 1 if an upload failed, 2 if the request cannot be met."""
    parser = argparse.ArgumentParser("python -m anomaly_zoo.dashboards", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, does in (("show", "print the dashboard as JSON"), ("save", "create it in the W&B project")):
        command = commands.add_parser(name, help=does)
        command.add_argument("--entity", default="me" if name == "show" else None, required=name == "save")
        command.add_argument("--project", default=PROJECT, help=f"({PROJECT})")
    command = commands.add_parser("sync", help="upload the runs that were tracked offline")
    command.add_argument("results", type=Path, nargs="?", default=Path("results"), help="the results store (results)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "sync":
            return sync(options.results)
        board = workspace(options.entity, options.project)
        if options.command == "save":
            board.save()
        else:
            sys.stdout.write(json.dumps(json.loads(board._to_model().model_dump_json(by_alias=True)), indent=2) + "\n")
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
