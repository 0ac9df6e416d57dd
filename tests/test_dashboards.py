import json
from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo.dashboards import main, offline_runs
from anomaly_zoo.measures import COSTS, SCORES

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style")  # wandb-workspaces 0.4 still uses it


def shown(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    pytest.importorskip("wandb_workspaces", reason="needs the extra `dashboards`")
    assert main(["show", *options]) == 0
    board: dict[str, Any] = json.loads(capsys.readouterr().out)
    return board


def test_the_dashboard_shows_every_score_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    board = shown(capsys, "--entity", "us", "--project", "p")
    assert (board["entity"], board["project"]) == ("us", "p")
    sections = board["spec"]["section"]["panelBankConfig"]["sections"]
    panels = {section["name"]: [panel["config"] for panel in section["panels"]] for section in sections}
    for name, metrics in (("Scores, higher is better", SCORES), ("Costs, lower is better", COSTS)):
        bars = [panel for panel in panels[name] if panel.get("metrics")]
        assert [bar["metrics"] for bar in bars] == [[f"summary_metrics.final/{metric}"] for metric in metrics]
        assert {bar["groupBy"] for bar in bars} == {"method.value"}
    assert panels["Test images"][0]["mediaKeys"] == ["test/pictures"]
    assert "train/loss" in str(panels["Training"])


def test_runs_are_grouped_by_dataset_shots_and_method(capsys: pytest.CaptureFixture[str]) -> None:
    runs = shown(capsys)["spec"]["section"]["runSets"][0]
    keys = [(key["section"], key["name"]) for key in runs["grouping"]]
    assert keys == [("config", "dataset.value"), ("config", "shots.value"), ("config", "method.value")]


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.workspaces", None)
    assert main(["show"]) == 2
    assert capsys.readouterr().err == "error: dashboards need wandb-workspaces: pip install 'anomaly_zoo[dashboards]'\n"


def test_only_offline_runs_that_were_not_uploaded_are_found(tmp_path: Path) -> None:
    for name in ("offline-run-1-a", "offline-run-2-b", "run-3-c"):
        folder = tmp_path / "d/c/m/shots=1/seed=0/wandb" / name
        folder.mkdir(parents=True)
        (folder / "x.wandb").touch()
    (folder.parent / "offline-run-1-a" / "x.wandb.synced").touch()
    assert [path.name for path in offline_runs(tmp_path)] == ["offline-run-2-b"]


def test_nothing_is_sent_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("wandb.login", lambda **_: False)
    monkeypatch.setattr("anomaly_zoo.dashboards.subprocess.run", None)
    assert main(["sync", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: nobody is logged in to W&B: run `wandb login`, or set WANDB_API_KEY\n"


def test_every_offline_run_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "wandb" / f"offline-run-{name}").mkdir(parents=True)
    sent: list[str] = []

    def run(command: list[str], check: bool) -> Any:
        sent.append(Path(command[-1]).name)
        return type("Done", (), {"returncode": int(command[-1].endswith("b"))})

    monkeypatch.setattr("wandb.login", lambda **_: True)
    monkeypatch.setattr("anomaly_zoo.dashboards.subprocess.run", run)
    assert main(["sync", str(tmp_path)]) == 1
    assert sent == ["offline-run-a", "offline-run-b"]
