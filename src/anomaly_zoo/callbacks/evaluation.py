"""The one evaluation of all methods: every metric of the protocol over the whole test split at once."""

from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import distributed

from anomaly_zoo.metrics import DetectionMetrics
from anomaly_zoo.results import ImageScore
from anomaly_zoo.types import Batch, Prediction


class EvaluationCallback(L.Callback):
    """Feeds predictions to `DetectionMetrics`, logs the metrics and keeps what a result needs."""

    metrics: dict[str, float]
    per_defect: dict[str, dict[str, float]]
    undefined: dict[str, str]
    images: list[ImageScore]  # sorted by path
    ms_per_image: float  # median over batches of the forward pass, the first (cold) one left out if there are more

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts afresh; ValueError if there is no datamodule."""
        if trainer.datamodule is None:  # type: ignore[attr-defined]
            raise ValueError("Pass the data as `trainer.test(module, datamodule=...)`: it knows the defects.")
        self._metrics = DetectionMetrics(trainer.datamodule.defects)  # type: ignore[attr-defined]
        self._images: list[ImageScore] = []
        self._batch_ms: list[float] = []
        self._sizes: set[int] = set()

    def on_test_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, *args: Any) -> None:
        """Starts the clock; on a GPU after an untimed pass if no batch was of this size, which sets kernels up."""
        if pl_module.device.type == "cuda" and len(batch.path) not in self._sizes:
            self._sizes.add(len(batch.path))
            with trainer.precision_plugin.forward_context():
                pl_module.test_step(batch, 0)
        self._start = _now()

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Prediction, batch: Batch, *args: Any
    ) -> None:
        """Takes in one batch."""
        self._batch_ms.append((_now() - self._start) * 1000 / len(batch.path))
        defect = [Path(path).parent.name if label else "" for path, label in zip(batch.path, batch.label, strict=True)]
        anomaly_map, image_score = outputs.anomaly_map, outputs.image_score.cpu()
        if anomaly_map.shape != batch.mask.shape:  # masks have the same size whatever a method sees
            size = batch.mask.shape[1:]
            anomaly_map = F.interpolate(anomaly_map[:, None], size, mode="bilinear", antialias=True)[:, 0]
        self._metrics.update(anomaly_map.cpu(), image_score, batch.mask.cpu(), batch.label.cpu(), defect)
        rows = zip(batch.path, defect, batch.label.tolist(), image_score.tolist(), strict=True)
        self._images += [ImageScore(path=row[0], defect=row[1], label=row[2], score=row[3]) for row in rows]

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers the processes of a distributed run and computes everything once."""
        gathered = [self._images]
        if distributed.is_initialized():
            gathered = [[] for _ in range(trainer.world_size)]
            distributed.all_gather_object(gathered, self._images)
            self._metrics.to(pl_module.device)  # NCCL gathers from its own device only
        self.metrics, self.per_defect, self.undefined = self._metrics.compute()
        self.images = sorted((image for part in gathered for image in part), key=lambda image: image["path"])
        self.ms_per_image = median(self._batch_ms[1:] or self._batch_ms)
        for logger in trainer.loggers:
            logger.log_metrics({f"test/{name}": value for name, value in self.metrics.items()})
        self._metrics.reset()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter()
