"""Tiny methods and data, and what tests of methods do with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.types import Batch, Prediction

Method = TypeVar("Method", bound=AnomalyModule)

IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def backbone(name: str = "test_resnet", scales: Sequence[float] = (1.0,)) -> Backbone:
    """A random one, always the same."""
    torch.manual_seed(0)
    return Backbone(name, weights="none", scales=scales)


def create(
    method: type[Method], backbone_name: str = "test_resnet", scales: Sequence[float] = (1.0,), **options: Any
) -> Method:
    """A method as its class says, with few views, always the same."""
    few: dict[str, Any] = {"support_views": 2, "orientations": "symmetries"}
    return method(backbone(backbone_name, scales), **(few | options))


def fit(module: Method, root: Path, shots: int = 4, **options: Any) -> Method:
    """Adapts to images of the tiny dataset."""
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = L.Trainer(accelerator="cpu", max_epochs=-1, **(quiet | options))
    trainer.fit(module, datamodule=MVTecDataModule(root, "alpha", image_size=64, shots=shots, batch_size=2))
    return module.eval()


@torch.no_grad()
def scores(module: AnomalyModule, image: Tensor = IMAGE) -> Prediction:
    """Map and image score."""
    prediction: Prediction = module(image)
    return prediction


@torch.no_grad()
def tuned(module: Any, image: Tensor) -> list[Tensor]:
    """What the tuned network sees in images, which it takes from the frozen trunk."""
    stages: list[Tensor] = module.network(module.backbone.trunk(image)[1])
    return stages


def same(first: Prediction, second: Prediction) -> bool:
    """Whether they are so to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def is_state(module: nn.Module, expected: dict[str, Tensor]) -> bool:
    """Whether parameters and buffers are these, to the last bit."""
    found = module.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(value, expected[name]) for name, value in found.items())


def fitted_views(module: AnomalyModule) -> Batch:
    """The views of the support that a method was fitted to."""
    datamodule = module.trainer.datamodule  # type: ignore[attr-defined] # set by `fit`
    support: Batch = datamodule.support(module.num_views, module.found_orientations.tolist())
    return support


def views(num_images: int, num_views: int) -> Batch:
    """Random images, several of each file."""
    image = torch.rand(num_images * num_views, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    path = [f"{number}.png" for number in range(num_images) for _ in range(num_views)]
    nothing = torch.zeros(len(image), dtype=torch.bool)
    return Batch(image, nothing[:, None, None].expand(-1, 64, 64), nothing, path)


# References, computed another way


def patches(stage: Tensor) -> Tensor:
    """One row per patch, in double precision."""
    return stage.detach().double().movedim(1, 3).flatten(0, 2)


def mahalanobis(normal: Tensor, asked: Tensor) -> np.ndarray:
    """Of rows, by scikit-learn, not squared."""
    reference = LedoitWolf().fit(normal.double().numpy())
    return np.asarray(np.sqrt(reference.mahalanobis(asked.double().numpy())))


def nearest(normal: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of every patch of a stage to the three nearest: at unit length, and as they are to the same ones."""
    rows, others = patches(asked), patches(normal)
    distance, found = torch.cdist(F.normalize(rows), F.normalize(others)).topk(4, largest=False)
    weight = distance[:, 3:] - distance
    as_they_are = (weight * (rows[:, None] - others[found]).norm(dim=2)).sum(dim=1) / weight.sum(dim=1)
    shape = (len(asked), *asked.shape[2:])
    return distance[:, :3].mean(dim=1).view(shape).float(), as_they_are.view(shape).float()
