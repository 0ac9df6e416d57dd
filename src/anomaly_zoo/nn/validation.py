"""Validation from the support alone: whom to hold out, and how well a score tells normals from synthetic negatives.

Ours; the idea that augmentations of normal images can validate comes from Rippel et al. (arXiv 2108.04116).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy import special
from torch import Tensor, nn

from anomaly_zoo.types import Batch

MAX_VIEWS = 4
"""Of every image, unless it is the only one: enough for a check."""


def instances(paths: list[str]) -> Int[Tensor, " n"]:
    """Numbers the images that views stem from, by their paths.

    Example:
        >>> instances(["b.png", "b.png", "a.png"])
        tensor([0, 0, 1])
    """
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    return torch.tensor([numbers[path] for path in paths])


def held_out_folds(instance: Int[Tensor, " n"], max_folds: int = 8) -> list[Bool[Tensor, " n"]]:
    """Folds of the support, each True for the views that are held out; no image is on both sides.

    Every instance is held out once with all its views, or a share of the instances if there are more than `max_folds`.
    A single image cannot be held out: its views are, one by one, which is easier for any score and so says less.

    Args:
        instance: the number of the image that a view stems from, see `instances`.
        max_folds: at least 2.

    Returns:
        The folds; none for a single view of a single image.

    Example:
        >>> held_out_folds(torch.tensor([0, 0, 1, 1]))
        [tensor([ True,  True, False, False]), tensor([False, False,  True,  True])]
    """
    groups = torch.unique(instance, return_inverse=True)[1]
    if groups.max() == 0:
        groups = torch.arange(len(instance))
    num_folds = min(int(groups.max()) + 1, max_folds)
    return [groups % num_folds == fold for fold in range(num_folds)] if num_folds > 1 else []


class HeldOut(NamedTuple):
    """What a check of a network needs.

    Attributes:
        fitted: views of normal images to fit to.
        instance: the image that each of them stems from.
        normal: views of images that are held out.
        anomalous: anomalies made of these, one batch for every kind.
        paths: the files that are held out from training; none of a single image.
    """

    fitted: Float[Tensor, "n 3 h w"]
    instance: Int[Tensor, " n"]
    normal: Float[Tensor, "m 3 h w"]
    anomalous: Float[Tensor, "f m 3 h w"]
    paths: frozenset[str]


def hold_out(support: Batch, make_anomalous: Callable[[Tensor], Float[Tensor, "f m 3 h w"]]) -> HeldOut | None:
    """Holds a quarter of the images out, or of the views if there is one image only.

    Args:
        support: views of normal images.
        make_anomalous: makes anomalies of held-out views, one batch for every kind.

    Returns:
        What a check needs; None if there is a single view.
    """
    instance = instances(support.path)
    folds = held_out_folds(instance, max_folds=4)
    if not folds:
        return None
    images = torch.unique(instance)
    held_out = folds[0]
    by_image = [(instance == i).nonzero()[:, 0] for i in images]
    views = [view if len(images) == 1 else view[:: -(-len(view) // MAX_VIEWS)] for view in by_image]
    few = torch.zeros_like(held_out).index_fill(0, torch.cat(views), True)
    normal, fitted = support.image[held_out & few], ~held_out & few
    owners = zip(support.path, held_out.tolist(), strict=True)
    paths = frozenset(path for path, is_out in owners if is_out and len(images) > 1)
    return HeldOut(support.image[fitted], instance[fitted], normal, make_anomalous(normal), paths)


def separation(normal: Float[Tensor, " n"], anomalous: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """AUROC: the probability that an anomalous score is above a normal one; ties count half.

    Example:
        >>> separation(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
        tensor(0.8750)
    """
    difference = anomalous[:, None] - normal
    return (difference > 0).float().mean() + (difference == 0).float().mean() / 2


class SupportStop(nn.Module):
    """Ends a training by what the support tells, and gives the network its best state back.

    A later state counts as better only if its gain is more than chance: a paired t-test, one-sided at 2.5 %. Few
    held-out images make validation noisy, and what has been trained less has forgotten less.

    Attributes:
        held_out: what checks look at; None without validation, and after `restore`.
        best_step: the step of the state that was restored; 0 before.
        curve: step and mean score of every check; empty before `restore`.

    Args:
        check_every: steps from one check to the next.
        patience: checks without a gain that end the training; 0 does without validation.

    Raises:
        ValueError: a number out of range.
    """

    best_step: Tensor
    curve: Tensor

    def __init__(self, check_every: int, patience: int) -> None:
        super().__init__()
        if check_every < 1 or patience < 0:
            raise ValueError(f"{check_every=}, {patience=}: need >= 1 and >= 0.")
        self.check_every = check_every
        self.patience = patience
        self.held_out: HeldOut | None = None
        self.register_buffer("best_step", torch.tensor(0))
        self.register_buffer("curve", torch.empty(0, 2))
        self._checks: list[tuple[int, float]] = []
        self._best: _Checked | None = None

    @property
    def is_patience_spent(self) -> bool:
        """Whether the best state was seen `patience` checks ago."""
        return self._best is not None and len(self._checks) - self._best.number >= self.patience

    def is_due(self, step: int) -> bool:
        """Whether a check comes before this step."""
        return self.held_out is not None and step % self.check_every == 0

    def note(self, network: nn.Module, step: int, scores: Float[Tensor, " f"]) -> float:
        """Takes in the scores of a check, such as one per kind of anomaly; returns their mean."""
        self._checks.append((step, float(scores.mean())))
        if self._best is None or _is_gain(scores - self._best.scores):
            state = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
            self._best = _Checked(len(self._checks), step, scores, state)
        return self._checks[-1][1]

    @torch.no_grad()
    def restore(self, network: nn.Module) -> None:
        """Gives the network its best state back, and forgets the states and what was held out.

        Raises:
            RuntimeError: no check was made.
        """
        if self._best is None:
            raise RuntimeError("No check was made, so that there is no best state.")
        for name, parameter in network.named_parameters():
            parameter.copy_(self._best.state[name])
        self.best_step.fill_(self._best.step)
        self.curve = torch.tensor(self._checks, device=self.best_step.device)
        self._best, self.held_out = None, None


class _Checked(NamedTuple):
    number: int
    step: int
    scores: Tensor
    state: dict[str, Tensor]


def _is_gain(gain: Float[Tensor, " f"]) -> bool:
    """Whether the mean in its standard errors is above the 97.5 % point of Student's t; a single value has none."""
    if len(gain) == 1:
        return bool(gain > 0)
    point = float(special.stdtrit(len(gain) - 1, 0.975))
    return bool(gain.mean() > point * gain.std() / len(gain) ** 0.5)
