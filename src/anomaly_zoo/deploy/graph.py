"""An adapted module as one graph from camera pixels to a decision, of operations that ONNX has.

Blocks of `nn` that search or solve in a way of their own are replaced, in a copy of the module, by plain matrix
products; a method that is built of those blocks needs no code here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from anomaly_zoo.deploy.resizing import Resize
from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.memory import GROUP, NUM_NEIGHBOURS, PatchMemory, smallest
from anomaly_zoo.nn.tiling import Tiling

_CHUNK = 512


class InspectionGraph(nn.Module):
    """Resizing, scoring, the decision and the p-value of images of one size.

    Args:
        module: an adapted method; its blocks are replaced in place, so hand over a copy.
        image_size: side in pixels that images are resized to.
        tiling: how images are cut, if they are.
        threshold: image score above which an image counts as anomalous.
        p_scores: image scores, rising ...
        p_values: ... and the p-value at each of them; between two of them it is interpolated.
        held_out: image scores of held-out normal images, for the conformal p-value.
    """

    p_scores: Tensor
    p_values: Tensor
    held_out: Tensor
    threshold: Tensor

    def __init__(
        self,
        module: nn.Module,
        image_size: int,
        tiling: Tiling | None,
        threshold: float,
        p_scores: list[float],
        p_values: list[float],
        held_out: list[float],
    ) -> None:
        super().__init__()
        replace_blocks(module)
        self.module = module
        self.resize = Resize(image_size)
        self.tiling = tiling
        self.register_buffer("threshold", torch.tensor(threshold))
        self.register_buffer("p_scores", torch.tensor(p_scores))
        self.register_buffer("p_values", torch.tensor(p_values))
        self.register_buffer("held_out", torch.tensor(held_out))

    def forward(
        self, image: UInt8[Tensor, "b h w 3"]
    ) -> tuple[
        Float[Tensor, " b"], Float[Tensor, "b s s"], Float[Tensor, " b"], Float[Tensor, " b"], Bool[Tensor, " b"]
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


class _MatrixMemory(nn.Module):
    """`PatchMemory` by one matrix product per stage, for any number of patches."""

    def __init__(self, memory: PatchMemory) -> None:
        super().__init__()
        for stage, rows in enumerate(memory.buffers()):
            rows = rows.float()
            centre = rows.mean(dim=0)
            squared_norm = (rows - centre).square().sum(dim=1, keepdim=True)
            factor = torch.cat([-2 * (rows - centre), squared_norm], dim=1)  # |m|^2 - 2 x.m, for x with a 1 appended
            filling = -len(rows) % GROUP
            self.register_buffer(f"rows{stage}", rows)
            self.register_buffer(f"centre{stage}", centre)
            self.register_buffer(f"factor{stage}", F.pad(factor, (0, 0, 0, filling)).T.contiguous())
            self.register_buffer(f"filling{stage}", F.pad(torch.zeros(len(rows)), (0, filling), value=torch.inf))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Distance of every patch to the memory of its stage."""
        return [self._distance(stage, feature) for stage, feature in enumerate(features)]

    def _distance(self, stage: int, feature: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
        patches = feature.movedim(1, 3).flatten(0, 2)
        if torch.compiler.is_exporting():
            distance = self._nearest(stage, patches)
        else:  # products that stay in the cache
            distance = torch.cat([self._nearest(stage, chunk) for chunk in torch.split(patches, _CHUNK)])
        return torch.unflatten(distance, 0, (-1, *feature.shape[2:]))

    def _nearest(self, stage: int, patches: Float[Tensor, "p c"]) -> Float[Tensor, " p"]:
        rows = getattr(self, f"rows{stage}")
        centred = F.pad(patches - getattr(self, f"centre{stage}"), (0, 1), value=1.0)
        product = centred @ getattr(self, f"factor{stage}")
        if len(rows) % GROUP:
            product = product + getattr(self, f"filling{stage}")
        nearest = rows[smallest(product, min(NUM_NEIGHBOURS, len(rows)))]
        distance: Tensor = (patches[:, None] - nearest).norm(dim=2).mean(dim=1)
        return distance


class _Whitening(nn.Module):
    """`Gaussian` with the inverse of its factor, since ONNX can solve no triangular system."""

    mean: Tensor
    inverse: Tensor

    def __init__(self, gaussian: Gaussian) -> None:
        super().__init__()
        factor = gaussian.cholesky.double()
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        self.register_buffer("mean", gaussian.mean.clone())
        self.register_buffer("inverse", inverse.to(gaussian.mean.dtype))

    def forward(self, features: Float[Tensor, "n *p d"]) -> Float[Tensor, "n *p"]:
        """Squared Mahalanobis distance of every vector."""
        difference = (features.to(self.mean.dtype) - self.mean)[..., None]
        return (self.inverse @ difference).square().sum(dim=(-2, -1))


def replace_blocks(module: nn.Module) -> None:
    """Replaces, in place, memories and Gaussians by matrix products that say the same up to rounding."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PatchMemory):
                setattr(parent, name, _MatrixMemory(child))
            elif isinstance(child, Gaussian):
                setattr(parent, name, _Whitening(child))
