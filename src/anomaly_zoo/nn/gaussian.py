"""Multivariate Gaussians of normal features: shrunk covariance to fit them, squared Mahalanobis distance to ask them.

Shrinkage: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
Multivariate Analysis 88 (2004), section 3. One Gaussian per level: Rippel et al. (arXiv 2005.14140). Ours:
`MIN_SHRINKAGE`, and the unit covariance of features without spread.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

MIN_SHRINKAGE = 1e-6  # for two vectors the formula finds that none is needed; a factor in float32 needs some


class Gaussian(nn.Module):
    """A Gaussian of normal feature vectors: its mean (empty before `fit`) and its covariance's lower Cholesky factor.

    With `identity` the covariance stays the identity, so that the distance is the squared Euclidean one to the mean.
    """

    mean: Tensor
    cholesky: Tensor

    def __init__(self, identity: bool = False) -> None:
        super().__init__()
        self.identity = identity
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("cholesky", torch.empty(0))

    @torch.no_grad()
    def fit(self, features: Float[Tensor, "n d"]) -> None:
        """Estimates mean and covariance (`ledoit_wolf`) in float64, replacing those of an earlier fit.

        Raises:
            ValueError: no features, or features that are not finite.
        """
        if not features.numel():
            raise ValueError(f"features have shape {tuple(features.shape)}: a Gaussian needs at least one vector.")
        _require_finite(features)
        eye = torch.eye(features.shape[1], dtype=torch.float64, device=features.device)
        covariance = eye if self.identity else ledoit_wolf(features)[0]
        self.mean = features.mean(dim=0, dtype=torch.float64).to(self.mean.dtype)
        self.cholesky = torch.linalg.cholesky(covariance).to(self.cholesky.dtype)

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Squared Mahalanobis distance of every vector; differentiable, in the dtype of the module.

        Raises:
            ValueError: features of another length than the fitted ones, or not finite.
        """
        if not self.mean.numel():
            raise RuntimeError("The Gaussian is not fitted: fit it on the support first.")
        if features.shape[1:] != self.mean.shape:
            raise ValueError(f"features have shape {tuple(features.shape)}: this Gaussian has (n, {len(self.mean)}).")
        if not torch.compiler.is_exporting():
            _require_finite(features)
        return squared_mahalanobis(features.to(self.mean.dtype), self.mean, self.cholesky)


def squared_mahalanobis(
    features: Float[Tensor, "n d"], mean: Float[Tensor, " d"], cholesky: Float[Tensor, "d d"]
) -> Float[Tensor, " n"]:
    """(x - m)^T S^-1 (x - m) = |L^-1 (x - m)|^2 with S = L L^T, by solving the triangular system.

    >>> squared_mahalanobis(torch.tensor([[3.0, 2.0]]), torch.tensor([1.0, 2.0]), 2 * torch.eye(2))
    tensor([1.])
    """
    whitened: Tensor = torch.linalg.solve_triangular(cholesky, (features - mean).T, upper=False)
    return whitened.square().sum(dim=0)


def ledoit_wolf(features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d d"], Float[Tensor, ""]]:
    """Covariance shrunk towards a multiple of the identity, and by how much; positive definite for every n >= 1.

    With S the sample covariance (divided by n), m = tr(S) / d and the squared Frobenius norm |.|^2:

        covariance = (1 - s) S + s m I,   s = min(1, sum_k |x_k x_k^T - S|^2 / n^2 / |S - m I|^2)

    As scikit-learn's, in float64, except that s >= `MIN_SHRINKAGE`. Features without spread (n = 1, or all vectors
    equal to float32 precision) get the identity and s = 1.

    >>> covariance, shrinkage = ledoit_wolf(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [3.0, 3.0]]))
    >>> covariance[0], round(shrinkage.item(), 4)
    (tensor([1.2500, 0.3594], dtype=torch.float64), 0.6406)
    """
    num_vectors, length = features.shape
    mean = features.mean(dim=0, dtype=torch.float64)
    centred = features - mean
    covariance = centred.T @ centred / num_vectors
    identity = torch.eye(length).to(covariance)
    variance = covariance.diagonal()
    if not (variance > (torch.finfo(torch.float32).eps * mean).square()).any():
        return identity, identity.new_ones(())

    scale = variance.mean()
    dispersion = (covariance - scale * identity).square().sum()
    # sum_k |x_k x_k^T - S|^2 = sum_k |x_k|^4 - n |S|^2 needs no n x d x d numbers
    error = (centred.square().sum(dim=1).square().mean() - covariance.square().sum()) / num_vectors
    shrinkage = torch.where(dispersion > 0, error / dispersion, 0.0).clamp(MIN_SHRINKAGE, 1.0)
    return (1 - shrinkage) * covariance + shrinkage * scale * identity, shrinkage


def _require_finite(features: Tensor) -> None:
    if not features.isfinite().all():
        raise ValueError(f"features hold {int((~features.isfinite()).sum())} values that are not finite.")
