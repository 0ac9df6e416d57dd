"""Methods that break in the ways that a bench must survive. They run in worker processes, where nothing is patched."""

import os
import signal
from pathlib import Path

import torch
from torch import Tensor

from anomaly_zoo.types import Batch
from tests.toy import Toy


class Faulty(Toy):
    """Does to itself what the file `fault-<category>` beside the dataset says; each fault once if it says so.

    Faults: kill, memory, nan, exit, sleep; "once" after one of them removes the file first.
    """

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Breaks, or trains."""
        category = Path(batch.path[0]).parents[2]
        file = category.parent.with_name(f"fault-{category.name}")
        fault, _, once = (file.read_text() if file.exists() else "").partition(" ")
        if once:
            file.unlink()
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "memory":
            torch.empty(2**60, dtype=torch.uint8)
        elif fault == "exit":
            os._exit(3)
        elif fault == "sleep":
            file.with_suffix(".reached").write_text(str(os.getpid()))
            signal.pause()
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if fault == "nan" else loss
