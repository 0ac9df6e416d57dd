"""Multivariate Gaussians of normal features: shrunk covariance to fit them, squared Mahalanobis distance to ask them.

Shrinkage: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
Multivariate Analysis 88 (2004), section 3. The pooled Gaussian per level is that of Rippel et al. (arXiv 2005.14140);
the Gaussian per position that of PaDiM (Defard et al., arXiv 2011.08785, section III.B), there with a fixed
regularisation. Ours: `MIN_SHRINKAGE`, and the unit covariance of features without spread.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Two vectors span a line, and the formula finds that no shrinkage is needed; a factor in float32 needs some.
MIN_SHRINKAGE = 1e-6
CHUNK_BYTES = 2**26  # of a float64 array, while `fit` goes through the positions


class Gaussian(nn.Module):
    """One Gaussian of normal feature vectors, or one per position, and how far other vectors are from it.

    The shape of the features decides: `n d` fits one Gaussian, `n p d` (or `n h w d`) one per position, each from n
    vectors. The factors take 4 p d^2 bytes: about 95 MB for 1024 positions and d = 152.

    Attributes:
        mean: `*p d`; empty before `fit`.
        cholesky: `*p d d`, the lower factor of the covariance; fitted in float64, kept in the dtype of the module.

    Args:
        identity: keeps the covariance at the identity, so that the distance is the squared Euclidean one to the mean.
    """

    mean: Tensor
    cholesky: Tensor

    def __init__(self, identity: bool = False) -> None:
        super().__init__()
        self.identity = identity
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("cholesky", torch.empty(0))

    @torch.no_grad()
    def fit(self, features: Float[Tensor, "n *p d"]) -> None:
        """Estimates mean and covariance (`ledoit_wolf`), replacing those of an earlier fit.

        Raises:
            ValueError: no features, or features that are not finite.
        """
        if not features.numel():
            raise ValueError(f"features have shape {tuple(features.shape)}: a Gaussian needs at least one vector.")
        _require_finite(features)
        num_vectors, *positions, length = features.shape
        by_position = features.reshape(num_vectors, -1, length).movedim(0, 1)
        mean = self.mean.new_empty(len(by_position), length, device=features.device)
        cholesky = self.cholesky.new_empty(len(by_position), length, length, device=features.device)
        num_at_once = max(1, CHUNK_BYTES // (8 * length * max(num_vectors, length)))
        chunks = (torch.split(part, num_at_once) for part in (by_position, mean, cholesky))
        for chunk, mean_chunk, cholesky_chunk in zip(*chunks, strict=True):
            mean_chunk.copy_(chunk.mean(dim=1, dtype=torch.float64))
            if self.identity:
                cholesky_chunk.copy_(torch.eye(length).expand_as(cholesky_chunk))
            else:
                cholesky_chunk.copy_(torch.linalg.cholesky(ledoit_wolf(chunk)[0]))
        self.mean = mean.reshape(*positions, length)
        self.cholesky = cholesky.reshape(*positions, length, length)

    def forward(self, features: Float[Tensor, "n *p d"]) -> Float[Tensor, "n *p"]:
        """Squared Mahalanobis distance of every vector to its Gaussian; differentiable, in the dtype of the module.

        Raises:
            RuntimeError: not fitted yet.
            ValueError: features of another length or with other positions than the fitted ones, or not finite.
        """
        if not self.mean.numel():
            raise RuntimeError("The Gaussian is not fitted: fit it on the support first.")
        if features.shape[1:] != self.mean.shape:
            allowed = ", ".join(map(str, self.mean.shape))
            raise ValueError(
                f"features have shape {tuple(features.shape)}: this Gaussian was fitted to (n, {allowed})."
            )
        if not torch.compiler.is_exporting():
            _require_finite(features)
        return squared_mahalanobis(features.to(self.mean.dtype), self.mean, self.cholesky)


def squared_mahalanobis(
    features: Float[Tensor, "n *p d"], mean: Float[Tensor, "*p d"], cholesky: Float[Tensor, "*p d d"]
) -> Float[Tensor, "n *p"]:
    """(x - m)^T S^-1 (x - m) = |L^-1 (x - m)|^2 with S = L L^T, by solving the triangular system.

    Its mean over the vectors that m and S were estimated from, without shrinkage, is d.

    Args:
        features: the vectors x.
        mean: m, of every position.
        cholesky: the lower factor L of the covariance, of every position.

    Example:
        >>> squared_mahalanobis(torch.tensor([[3.0, 2.0]]), torch.tensor([1.0, 2.0]), 2 * torch.eye(2))
        tensor([1.])
    """
    difference = (features - mean).movedim(0, -1)
    whitened: Tensor = torch.linalg.solve_triangular(cholesky, difference, upper=False)
    return whitened.square().sum(dim=-2).movedim(-1, 0)


def ledoit_wolf(features: Float[Tensor, "*p n d"]) -> tuple[Float[Tensor, "*p d d"], Float[Tensor, "*p"]]:
    """Covariance shrunk towards a multiple of the identity, and by how much; positive definite for every n >= 1.

    With S the sample covariance (divided by n), m = tr(S) / d and the squared Frobenius norm |.|^2:

        covariance = (1 - s) S + s m I,   s = min(1, sum_k |x_k x_k^T - S|^2 / n^2 / |S - m I|^2)

    That is scikit-learn's `ledoit_wolf`, except that s >= `MIN_SHRINKAGE`: for two vectors the formula says 0 and S is
    singular. Features without spread (n = 1, or all vectors equal to float32 precision) say nothing about their scale:
    they get the identity and s = 1, so that the squared Mahalanobis distance is the squared Euclidean one. The formula
    takes vectors as independent; neighbouring patches and views of one image are not, which makes s too small.

    Args:
        features: n vectors (of every position).

    Returns:
        The covariance and the shrinkage s in (0, 1], both in float64. The memory it takes grows as n d + d^2.

    Example:
        >>> covariance, shrinkage = ledoit_wolf(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [3.0, 3.0]]))
        >>> covariance
        tensor([[1.2500, 0.3594],
                [0.3594, 1.2500]], dtype=torch.float64)
        >>> round(shrinkage.item(), 4)
        0.6406
    """
    num_vectors, length = features.shape[-2:]
    mean = features.mean(dim=-2, keepdim=True, dtype=torch.float64)
    centred = features - mean
    covariance = centred.mT @ centred / num_vectors
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    rounding = torch.finfo(torch.float32).eps * mean.squeeze(-2)
    has_spread = (diagonal > rounding.square()).any(dim=-1)
    scale = torch.where(has_spread, diagonal.mean(dim=-1), 1.0)

    diagonal -= scale[..., None]  # a view: the covariance is now S - m I
    dispersion = torch.linalg.matrix_norm(covariance).square()
    # sum_k |x_k x_k^T - S|^2 = sum_k |x_k|^4 - n |S|^2 needs no n x d x d numbers, and |S|^2 = |S - m I|^2 + d m^2
    fourth_moment = torch.linalg.vector_norm(centred, dim=-1).pow(4).mean(dim=-1)
    error = (fourth_moment - dispersion - length * scale.square()) / num_vectors
    shrinkage = torch.where(dispersion > 0, error / dispersion, 0.0).clamp(MIN_SHRINKAGE, 1.0)
    shrinkage = torch.where(has_spread, shrinkage, 1.0)

    shrunk = (1 - shrinkage)[..., None, None] * covariance
    shrunk.diagonal(dim1=-2, dim2=-1).add_(scale[..., None])
    return shrunk, shrinkage


def _require_finite(features: Tensor) -> None:
    if not features.isfinite().all():
        raise ValueError(f"features hold {int((~features.isfinite()).sum())} values that are not finite.")
