from pathlib import Path

import pytest
from torch import Tensor

from anomaly_zoo.config import build, resolve
from anomaly_zoo.types import Batch
from tests.toy import Toy


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_loss_that_is_no_number_ends_the_run(
    value: str, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Toy.training_step

    def training_step(module: Toy, batch: Batch, batch_idx: int) -> Tensor:
        loss = original(module, batch, batch_idx)
        return loss * float(value) if batch_idx == 2 else loss

    monkeypatch.setattr(Toy, "training_step", training_step)
    (tmp_path / "toy.yaml").write_text("model: {class_path: tests.toy.Toy, init_args: {steps: 5}}\n")
    options = [f"--data.root={tiny_root}", "--data.category=alpha", "--data.shots=2", "--data.image_size=64"]
    cli = build(resolve(tmp_path / "toy.yaml", [*options, "--trainer.accelerator=cpu"]))
    with pytest.raises(FloatingPointError, match=rf"the loss is {value} at step 2: lower learning_rate"):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
