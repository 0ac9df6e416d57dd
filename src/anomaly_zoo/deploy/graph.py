"""An adapted module as one graph from camera pixels to a decision, of operations that ONNX has.

Blocks of `nn` that search or solve are replaced, in a copy, by matrix products: a method of those needs no code here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from anomaly_zoo.deploy.model_folder import Model, copy_of
from anomaly_zoo.deploy.resizing import Resize
from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.memory import PatchMemory, mean_of_nearest, weighted_by_nearness
from anomaly_zoo.nn.nearest import NUM_NEIGHBOURS, factors, smallest
from anomaly_zoo.types import Distances, Stages


class InspectionGraph(nn.Module):
    """Resizing, scoring, the decision and the p-values of images of one size. The model itself stays as it is."""

    p_scores: Tensor
    p_values: Tensor
    held_out: Tensor
    threshold: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.module = copy_of(model.module)
        replace_blocks(self.module)
        self.resize = Resize(model.image_shape)
        self.tiling = model.tiling
        calibration = model.calibration
        threshold = calibration.threshold if calibration.threshold is not None else -torch.inf  # rather all than none
        self.register_buffer("threshold", torch.tensor(threshold))
        self.register_buffer("p_scores", torch.tensor(calibration.p_scores))
        self.register_buffer("p_values", torch.tensor(calibration.p_values))
        self.register_buffer("held_out", torch.tensor(calibration.image_scores))
        self.requires_grad_(False).eval()

    def forward(
        self, image: UInt8[Tensor, "b h w 3"]
    ) -> tuple[
        Float[Tensor, " b"], Float[Tensor, "b y x"], Float[Tensor, " b"], Float[Tensor, " b"], Bool[Tensor, " b"]
    ]:
        """Image score, anomaly map, p-value, conformal p-value, and whether the image counts as anomalous."""
        resized = self.resize(image) / 255
        if self.tiling is None:
            anomaly_map, image_score = self.module(resized)
        else:
            tile_map, tile_score = self.module(self.tiling.split(resized))
            image_score = torch.unflatten(tile_score, 0, (-1, len(self.tiling.corners))).amax(dim=1)
            anomaly_map = self.tiling.stitch(tile_map)
        at_least = (self.held_out >= image_score[:, None]).float().sum(dim=1)
        conformal = (1 + at_least) / (1 + len(self.held_out))
        return image_score, anomaly_map, self._p_value(image_score), conformal, image_score > self.threshold

    def _p_value(self, score: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Linear interpolation in the table, constant beyond its ends."""
        low, high = self.p_scores[:-1], self.p_scores[1:]
        place = ((score[:, None] - low) / (high - low).clamp(min=1e-30)).clamp(0, 1)
        return self.p_values[0] + (place * self.p_values.diff()).sum(dim=1)


def replace_blocks(module: nn.Module) -> None:
    """Replaces, in place, memories and Gaussians by matrix products that say the same up to rounding."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PatchMemory):
                setattr(parent, name, _MatrixMemory(child))
            elif isinstance(child, Gaussian):
                setattr(parent, name, _Whitening(child))


class _MatrixMemory(PatchMemory):
    """`PatchMemory` with one matrix product per stage instead of a search, for any number of patches."""

    def __init__(self, memory: PatchMemory) -> None:
        super().__init__(memory.num_stages, memory.raw)
        for name, rows in memory.named_buffers():
            setattr(self, name, rows.float())
        for stage in range(self.num_stages):
            centre, factor, squared_norm = factors(getattr(self, f"stage{stage}"))
            self.register_buffer(f"centre{stage}", centre)
            finite = squared_norm.where(squared_norm.isfinite(), 0)
            filling = squared_norm - finite if squared_norm.isinf().any() else None  # apart: no infinity is quantised
            self.register_buffer(f"joined{stage}", torch.cat([factor, finite[:, None]], dim=1).T.contiguous())
            self.register_buffer(f"filling{stage}", filling)

    def forward(self, features: Stages) -> Distances:
        """Distances at unit length in every stage, and of patches as they are in the finest ones."""
        unit, raw = [], []
        for stage, feature in enumerate(features[: self.num_stages]):
            direction, patches = (maps.movedim(1, 3).flatten(0, 2) for maps in (F.normalize(feature, dim=1), feature))
            rows = getattr(self, f"stage{stage}")
            nearest = self._nearest(stage, direction, min(NUM_NEIGHBOURS + int(stage in self.raw), len(rows)))
            near, grid = rows[nearest], (-1, *feature.shape[2:])
            distance = (direction[:, None] - near).norm(dim=2)
            unit.append(torch.unflatten(mean_of_nearest(distance), 0, grid))
            if stage in self.raw:
                near = near * getattr(self, f"length{stage}")[nearest][..., None]
                as_they_are = weighted_by_nearness((patches[:, None] - near).norm(dim=2), distance)
                raw.append(torch.unflatten(as_they_are, 0, grid))
        return Distances(patch=unit, detail=raw)

    def _nearest(self, stage: int, direction: Float[Tensor, "p c"], count: int) -> Int[Tensor, "p k"]:
        """Indices of the nearest rows: the patches, with a 1 appended, times factors and squared norms."""
        centred, filling = direction - getattr(self, f"centre{stage}"), getattr(self, f"filling{stage}")
        product: Tensor = F.pad(centred, (0, 1), value=1.0) @ getattr(self, f"joined{stage}")
        return smallest(product if filling is None else product + filling, count)


class _Whitening(nn.Module):
    """`Gaussian` with the inverse of its factor, since ONNX can solve no triangular system."""

    mean: Tensor
    inverse: Tensor

    def __init__(self, gaussian: Gaussian) -> None:
        super().__init__()
        factor = gaussian.cholesky.double()
        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
        self.register_buffer("mean", gaussian.mean.clone())
        self.register_buffer("inverse", inverse.to(gaussian.mean.dtype))

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Squared Mahalanobis distance of every vector."""
        return ((features.to(self.mean.dtype) - self.mean) @ self.inverse.T).square().sum(dim=1)
