"""The products that the page knows: their models, and the adaptations that make new ones."""

import secrets
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from anomaly_zoo.deploy.adapting import Report
from anomaly_zoo.deploy.model_folder import RECORD, Model, load, save
from anomaly_zoo.deploy.torch_inspector import TorchInspector

MAX_SUPPORT = 64  # normal images of one new product
_CATEGORY = "product"
_LOADED = 4


@dataclass
class Adaptation:
    """A product in the making."""

    state: Literal["collecting", "adapting", "ready", "failed"] = "collecting"
    images: int = 0  # how many were added
    what: str = ""  # is being done, and ...
    done: int = 0  # ... how far it is ...
    total: int = 0  # ... of how much
    product: str = ""  # the id of the product, once it is ready
    error: str = ""  # why it failed


class Products:
    """Models by id, where an unknown one is a KeyError. No name from outside ever becomes a path.

    `folder` holds those that `adapt` makes of `<folder>/<category>/train/good`; `model` is one from elsewhere.
    """

    def __init__(self, folder: Path, adapt: Callable[[Path, str, Report], Model], model: Path | None = None) -> None:
        self.folder = folder
        self._adapt = adapt
        self._folders = {path.name: path for path in sorted(folder.glob("*")) if (path / RECORD).is_file()}
        self._inspector = lru_cache(_LOADED)(lambda product: TorchInspector(load(self._folders[product])))
        self._adaptations: dict[str, Adaptation] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="adapting")
        if model is not None:
            self._folders = {"model": model, **self._folders}
            self.inspector("model")

    def inspector(self, product: str) -> TorchInspector:
        """The model of a product."""
        with self._lock:
            return self._inspector(product)

    def describe(self) -> list[dict[str, Any]]:
        """What there is, for the page."""
        return [self._describe(product) for product in list(self._folders)]

    def _describe(self, product: str) -> dict[str, Any]:
        try:
            model = self.inspector(product).model
        except (ValueError, OSError) as error:
            return {"id": product, "name": product, "error": str(error)}
        return {
            "id": product,
            "name": model.category,
            "method": model.method,
            "shots": len(model.support),
            "threshold": model.calibration.threshold,
            "false_alarm_rate": model.calibration.false_alarm_rate,
            "warnings": model.warnings,
        }

    def begin(self) -> str:
        """Starts collecting images of a new product and returns the id of the adaptation."""
        with self._lock:
            unfinished = [key for key, value in self._adaptations.items() if value.state == "collecting"]
            for key in unfinished[:-8]:  # pages that were closed
                del self._adaptations[key]
                shutil.rmtree(self._workplace(key), ignore_errors=True)
            key = secrets.token_hex(8)
            self._adaptations[key] = Adaptation()
        return key

    def adaptation(self, key: str) -> Adaptation:
        """How far an adaptation is."""
        with self._lock:
            return replace(self._adaptations[key])

    def add_image(self, key: str, image: np.ndarray) -> int:
        """Adds a normal image and returns how many there are; ValueError if it is too late or there are too many."""
        content = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        with self._lock:
            adaptation = self._adaptations[key]
            if adaptation.state != "collecting":
                raise ValueError("the adaptation has begun: start another one")
            if adaptation.images >= MAX_SUPPORT:
                raise ValueError(f"there are {MAX_SUPPORT} images already, the most that can be used")
            path = self._workplace(key) / _CATEGORY / "train" / "good" / f"{adaptation.images:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            adaptation.images += 1
            return adaptation.images

    def start(self, key: str, name: str) -> None:
        """Adapts to the images in the background, one product after the other; ValueError if it is not the time."""
        with self._lock:
            adaptation = self._adaptations[key]
            if adaptation.state != "collecting" or not adaptation.images:
                raise ValueError("add normal images first" if not adaptation.images else "the adaptation has begun")
            adaptation.state, adaptation.what = "adapting", "waiting"
        self._worker.submit(self._run, key, name)

    def close(self) -> None:
        """Waits for the adaptation that is running and forgets those that wait."""
        self._worker.shutdown(cancel_futures=True)

    def _run(self, key: str, name: str) -> None:
        adaptation = self._adaptations[key]

        def report(what: str, done: int, total: int) -> None:
            adaptation.what, adaptation.done, adaptation.total = what, done, total

        try:
            report("adapting", 0, 0)
            model = self._adapt(self._workplace(key), _CATEGORY, report)
            save(replace(model, category=name), self.folder / key)
            with self._lock:
                self._folders[key] = self.folder / key
            adaptation.product, adaptation.state = key, "ready"
        except Exception as error:  # whatever it is, the page must hear of it
            adaptation.error, adaptation.state = f"{type(error).__name__}: {error}", "failed"
        finally:
            shutil.rmtree(self._workplace(key), ignore_errors=True)

    def _workplace(self, key: str) -> Path:
        return self.folder / f".{key}"
