"""The score of every test image in one table, however many processes predict."""

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torch import distributed

from anomaly_zoo.files import replacing
from anomaly_zoo.types import Batch, Prediction


class ScoresCallback(L.Callback):
    """Writes path and image score of what `trainer.predict` scores: each image once, sorted by path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[tuple[str, float]] = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Prediction, batch: Batch, *args: Any
    ) -> None:
        """Takes in one batch."""
        self.rows += zip(batch.path, outputs.image_score.tolist(), strict=True)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers the processes of a distributed run; the first one writes."""
        gathered = [self.rows]
        if distributed.is_initialized():
            gathered = [[] for _ in range(trainer.world_size)]
            distributed.all_gather_object(gathered, self.rows)
        self.rows = sorted({row for part in gathered for row in part})
        if trainer.is_global_zero:
            with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("path", "image_score"), *self.rows])
