"""The three contrastive losses on patches instead of whole images, for backbones whose patches draw a map.

Ours: COFT-AD (Liao et al., arXiv 2402.18998) contrasts whole images. The formulas follow `nn/contrastive.py`; what
makes patches into pairs is the mask of a synthetic negative, which lies on the very image that it was made of.
"""

from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anomaly_zoo.nn.contrastive import EPS

MAX_PATCHES = 256
"""Patches of every image that look for partners in other images."""


class PatchLosses(NamedTuple):
    """Scalars; each is 0, with gradients of 0, if it has no pair."""

    con: Float[Tensor, ""]
    pp: Float[Tensor, ""]
    np: Float[Tensor, ""]


def patch_losses(
    normal: Float[Tensor, "b c h w"],
    negative: Float[Tensor, "b c h w"],
    mask: Bool[Tensor, "b _ _"],
    instance: Int[Tensor, " b"],
    margin: float = 0.0,
) -> PatchLosses:
    """Contrasts patches of normal images n and of synthetic negatives s made of them; <a, b> is the cosine.

        con = -mean over p outside of the mask of <n_p, s_p>           what lies beside a defect stays as it was
        pp  = -mean over p of max over q of other images of <n_p, n_q>   normal patches have partners in other images
        np  =  mean over p inside the mask of max(0, <n_p, s_p> - margin)

    A patch is inside if the mask covers more than half of it, and outside if it covers nothing of it.

    Args:
        normal: a stage of normal images.
        negative: the same stage of their synthetic negatives.
        mask: True where a negative was changed, at the size of the images.
        instance: which normal image a row stems from; rows of one image are no partners.
        margin: cosine under which a negative patch is far enough away.
    """
    covered = F.adaptive_avg_pool2d(mask[:, None].to(normal.dtype), (normal.shape[2], normal.shape[3]))[:, 0]
    similarity = F.cosine_similarity(normal, negative, dim=1, eps=EPS)
    con = -_mean(similarity, covered == 0)
    np = _mean((similarity - margin).relu(), covered > 0.5)
    return PatchLosses(con, -_nearest_in_other_images(normal, instance), np)


def _nearest_in_other_images(normal: Float[Tensor, "b c h w"], instance: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Mean cosine of patches to the most similar ones of other images; every so many patches are enough."""
    unit = F.normalize(normal.flatten(2), dim=1, eps=EPS)
    patches = unit[:, :, :: max(1, unit.shape[2] // MAX_PATCHES)].mT
    rows, owner = patches.flatten(0, 1), instance.repeat_interleave(patches.shape[1])
    is_other = owner[:, None] != owner
    best = (rows @ rows.mT).masked_fill(~is_other, -1.0).amax(dim=1)
    return _mean(best, is_other.any(dim=1))


def _mean(values: Tensor, where: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    return (values * where).sum() / where.sum().clamp(min=1)
