"""Stops a run whose loss is no number any more: what it would go on to learn is none either."""

import lightning.pytorch as L
import torch
from torch import Tensor


class FiniteLoss(L.Callback):
    """Raises as soon as the loss of a training step is infinite or NaN."""

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Looks at the loss.

        Raises:
            FloatingPointError: it is not finite.
        """
        if not torch.isfinite(loss).all():
            raise FloatingPointError(f"the loss is {loss.item()} at step {trainer.global_step}: lower learning_rate")
