"""Contrastive losses on embeddings and the heads that make the embeddings.

All losses compare directions, <u, v> / (|u| |v|). Rows of z1 and z2 are the projections of two views of b images.

`simsiam_loss`: Chen and He, CVPR 2021, section 3. `infonce_loss`: Chen et al., ICML 2020, section 2.1.
`cross_instance_loss` and `negative_pair_loss`: the ideas are those of COFT-AD (Liao et al., arXiv 2402.18998), the
formulas are ours, because we could not read its text.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

EPS = 1e-6  # representable in float16, unlike torch's 1e-12


def simsiam_loss(
    p1: Float[Tensor, "b d"], p2: Float[Tensor, "b d"], z1: Float[Tensor, "b d"], z2: Float[Tensor, "b d"]
) -> Float[Tensor, ""]:
    """Every view predicts the other one: -mean_i (<p1_i, stop(z2_i)> + <p2_i, stop(z1_i)>) / 2, in [-1, 1].

    No gradient flows into z1 and z2 (SimSiam, equation 4); without that stop all embeddings collapse to one.

    >>> simsiam_loss(torch.eye(2), torch.eye(2), 3 * torch.eye(2), torch.eye(2))
    tensor(-1.)
    """
    first = F.cosine_similarity(p1, z2.detach(), eps=EPS)
    second = F.cosine_similarity(p2, z1.detach(), eps=EPS)
    return -(first + second).mean() / 2


def infonce_loss(z1: Float[Tensor, "b d"], z2: Float[Tensor, "b d"], temperature: float = 0.2) -> Float[Tensor, ""]:
    """Two views of an image attract, views of other images repel: NT-Xent of SimCLR (equation 1).

        mean_i -log( exp(<u_i, u_pair(i)> / t) / sum_{j != i} exp(<u_i, u_j> / t) )   over all 2 b views u

    The temperature t = 0.2 is that of MoCo v2 (Chen et al., arXiv 2003.04297).

    Raises:
        ValueError: fewer than two images, or a temperature that is not positive.

    >>> infonce_loss(torch.eye(2), torch.eye(2), temperature=0.5)
    tensor(0.2395)
    """
    if len(z1) < 2 or temperature <= 0:
        raise ValueError(f"{len(z1)} images and {temperature=}: InfoNCE needs at least 2 images and a temperature > 0.")
    views = _unit(torch.cat([z1, z2]))
    logits = (views @ views.mT / temperature).fill_diagonal_(-torch.inf)
    other_view = torch.arange(len(views), device=views.device).roll(len(z1))
    return F.cross_entropy(logits, other_view)


def cross_instance_loss(
    z1: Float[Tensor, "b d"], z2: Float[Tensor, "b d"], instance: Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Normal instances attract each other: -mean <z1_i, z2_j> over all i, j with instance_i != instance_j.

    `instance` numbers the normal image that a row stems from. In [-1, 1]; 0 if all rows are of one. Linear in b.

    >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    >>> cross_instance_loss(z, z, torch.tensor([0, 0, 7]))
    tensor(-0.5000)
    """
    first, second = _unit(z1), _unit(z2)
    member = torch.unique(instance)[:, None] == instance
    first_sum, second_sum = (member.to(unit.dtype) @ unit for unit in (first, second))  # one row per instance
    other_sum = second_sum.sum(dim=0) - second_sum
    num_pairs = len(instance) ** 2 - member.sum(dim=1).square().sum()
    mean: Tensor = (first_sum * other_sum).sum() / num_pairs.clamp(min=1)
    return -mean


def negative_pair_loss(
    z: Float[Tensor, "b d"], z_negative: Float[Tensor, "m d"], margin: float = 0.0
) -> Float[Tensor, ""]:
    """Synthetic negatives are pushed away: mean over all i, j of max(0, <z_i, z_negative_j> - margin).

    The negative half of torch's `CosineEmbeddingLoss`, over all pairs; 0 if there is none.

    Raises:
        ValueError: a margin out of range.

    >>> negative_pair_loss(torch.eye(2), torch.tensor([[4.0, 0.0]]), margin=0.5)
    tensor(0.2500)
    """
    if not -1 <= margin < 1:
        raise ValueError(f"{margin=}: choose a cosine in [-1, 1).")
    excess = (_unit(z) @ _unit(z_negative).mT - margin).relu()
    return excess.sum() / max(1, excess.numel())


class Projector(nn.Module):
    """An MLP with one hidden layer: projects features to embeddings, or predicts one view's embedding from the other's.

    Ours: layer normalisation instead of batch normalisation, because a few images have no useful batch statistics.
    """

    def __init__(self, in_features: int, hidden_features: int = 512, out_features: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden_features),
            nn.LayerNorm(hidden_features),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_features, out_features),
        )

    def forward(self, features: Float[Tensor, "*b d"]) -> Float[Tensor, "*b e"]:
        """One embedding per feature vector, not normalised."""
        embedding: Tensor = self.layers(features)
        return embedding


def _unit(z: Tensor) -> Tensor:
    return F.normalize(z, dim=-1, eps=EPS)
