from pathlib import Path

import pytest

from anomaly_zoo.data.prepare.commands import commands_to_run
from anomaly_zoo.data.prepare.tree import Files


def files(train: int, *others: str) -> Files:
    places = [f"c/train/good/{number}.png" for number in range(train)] + ["c/test/good/0.png", *others]
    return dict.fromkeys(places, Path("x.png"))


@pytest.mark.parametrize(
    ("root", "train", "expected"),
    [
        ("sets/a", 20, "make bench METHOD=frozen SHOTS=8 ROOT=sets/a"),
        ("sets/a", 3, "make bench METHOD=frozen SHOTS=3 ROOT=sets/a"),
        ("my sets", 9, "python -m anomaly_zoo.bench --method frozen --shots 8 --root 'my sets'"),
    ],
)
def test_with_anomalous_images(root: str, train: int, expected: str) -> None:
    assert commands_to_run(Path(root), files(train, "c/test/hole/0.png")) == expected


def test_without_anomalous_images() -> None:
    fit, predict = commands_to_run(Path("my sets"), files(5)).splitlines()
    assert fit == (
        "python -m anomaly_zoo fit --config configs/methods/frozen.yaml --data.root 'my sets' --data.category c "
        "--data.shots 5 --output models/c"
    )
    assert predict == "python -m anomaly_zoo predict --model models/c FOLDER --output found"
    (only,) = commands_to_run(Path("sets"), files(5, "c/region.json")).splitlines()
    assert only.endswith("--data.category c --data.shots 5")  # a model folder cannot hold a region
