"""Results as the tests of the comparison want them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anomaly_zoo.compare.runs import frame
from anomaly_zoo.compare.significance import Compared, add_tests
from anomaly_zoo.compare.summary import By, Summary, summarise
from anomaly_zoo.results import ImageScore, Result


def config(**data: Any) -> dict[str, Any]:
    return {"backbone": {"name": "lite0"}, "data": {"image_size": 256, **data}, "trainer": {"precision": "32-true"}}


def run(method: str, seed: int, auroc: float, category: str = "bottle", **changes: Any) -> Result:
    result = Result(
        dataset="mvtec",
        category=category,
        method=method,
        shots=8,
        seed=seed,
        backbone="lite0",
        metrics={"image_auroc": auroc, "aupro": auroc / 2},
        timing={"adapt_s": 10.0 + seed, "ms_per_image": 12.0},
        config=config(),
        support={"paths": [f"{seed}.png"], "sha256": f"{seed:064x}"},
    )
    return replace(result, **changes)


def trained(method: str, seed: int, kept_step: int, **changes: Any) -> Result:
    """A run of ten steps."""
    training = {"steps": 10.0, "kept_step": float(kept_step), "weights_moved": kept_step / 1000}
    return run(method, seed, 0.8, **{"training": training, **changes})


def failed(method: str, seed: int, error: str, **changes: Any) -> Result:
    nothing: dict[str, Any] = {"metrics": {}, "timing": {}, "status": "failed", "error": error}
    return run(method, seed, 0.0, **{**nothing, **changes})


def summarised(results: Sequence[Result], baseline: str = "frozen", by: By = "category") -> list[Compared]:
    """The summary with its tests."""
    runs = frame(results, baseline)
    return add_tests(summarise(runs, baseline, by), runs, baseline)


def comparisons(results: Sequence[Result], by: By = "category") -> list[dict[str, Any]]:
    """The rows that have a test, and what it says, in one."""
    return [{**row, **row["test"]} for row in summarised(results, by=by) if "test" in row]


def row_of(rows: Sequence[Summary], method: str, category: str = "bottle") -> Summary:
    (row,) = (row for row in rows if (row["method"], row["category"]) == (method, category))
    return row


THREE_SEEDS = [run("frozen", 0, 0.80), run("frozen", 1, 0.82), run("frozen", 2, 0.84)]
TWO_SEEDS = [run("coft", 0, 0.90), run("coft", 1, 0.86)]
NO_MASKS: dict[str, Any] = {"metrics": {"image_auroc": 0.5}, "undefined": {"aupro": "no masks"}}


def scored(method: str, seed: int, scores: Sequence[float], num_normal: int, **changes: Any) -> Result:
    """A run whose image AUROC follows from its scores: `num_normal` normal images, the rest half cracks, half dents."""
    images = []
    for place, score in enumerate(scores):
        defect = "" if place < num_normal else ("crack", "dent")[place % 2]
        path = f"/data/bottle/test/{defect or 'good'}/{place:03}.png"
        images.append(ImageScore(path=path, defect=defect, label=place >= num_normal, score=float(score)))
    normal, anomalous = scores[:num_normal], scores[num_normal:]
    pairs = [(a > n) + (a == n) / 2 for a in anomalous for n in normal]
    return run(method, seed, float(sum(pairs)) / len(pairs), images=images, **changes)
