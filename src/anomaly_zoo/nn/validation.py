"""Validation from the support alone: whom to hold out, and when a fine-tuned network begins to forget.

That augmented normal images can validate, and that the onset of catastrophic forgetting shows there: Rippel et al.
(arXiv 2108.04116). Ours: whom to hold out, and what counts as the onset.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor, nn

from anomaly_zoo.types import Batch

MAX_FOLDS = 8
MAX_VIEWS = 4  # of every image, unless it is the only one: enough for a check


def instances(paths: list[str]) -> Int[Tensor, " n"]:
    """Numbers the images that views stem from, by their paths.

    >>> instances(["b.png", "b.png", "a.png"])
    tensor([0, 0, 1])
    """
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    return torch.tensor([numbers[path] for path in paths])


def held_out_parts(number: Int[Tensor, "k t v"]) -> list[Int[Tensor, "m t _"]]:
    """Parts of k images with t tiles and v views that are held out together, each once; no image is on both sides.

    They are images, or a share of them if there are more than `MAX_FOLDS`. A single image cannot be held out: its
    augmented views are, one by one, which says less.

    >>> [part.flatten().tolist() for part in held_out_parts(torch.arange(9).view(9, 1, 1))][:2]
    [[0, 8], [1]]
    """
    if len(number) > 1:
        num_folds = min(len(number), MAX_FOLDS)
        return [number[fold::num_folds] for fold in range(num_folds)]
    return [number[:, :, view : view + 1] for view in range(1, number.shape[2])]


def kept_out(files: list[str]) -> list[str]:
    """A quarter of the support, which a training does not see; of fewer than four images, none.

    >>> kept_out(["a", "b", "c", "d", "e"])
    ['a', 'e']
    """
    return files[::4] if len(files) >= 4 else []


class HeldOut(NamedTuple):
    """What a check needs: views to fit to, views of other images, and one batch of anomalies of these per kind."""

    fitted: Float[Tensor, "n 3 h w"]
    normal: Float[Tensor, "m 3 h w"]
    anomalous: Float[Tensor, "f m 3 h w"]


def hold_out(
    support: Batch, paths: list[str], make_anomalous: Callable[[Tensor], Float[Tensor, "f m 3 h w"]]
) -> HeldOut | None:
    """Parts the views of the support: those of `paths`, or a quarter of all if there are none, against the others.

    Of a single view there is no such part.
    """
    instance = instances(support.path)
    views = [(instance == i).nonzero()[:, 0] for i in torch.unique(instance)]
    few = torch.cat([view if len(views) == 1 else view[:: -(-len(view) // MAX_VIEWS)] for view in views])
    if len(few) == 1:
        return None
    is_out = torch.tensor([support.path[index] in paths for index in few]) if paths else torch.arange(len(few)) % 4 == 0
    normal = support.image[few[is_out]]
    return HeldOut(support.image[few[~is_out]], normal, make_anomalous(normal))


def separation(normal: Float[Tensor, " n"], anomalous: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """AUROC: the probability that an anomalous score is above a normal one; ties count half.

    >>> separation(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    tensor(0.8750)
    """
    difference = anomalous[:, None] - normal
    return (difference > 0).float().mean() + (difference == 0).float().mean() / 2


class ForgettingStop:
    """Notices when a network that is fine-tuned begins to forget, and gives it its best state back.

    It has forgotten if it scores worse than at its best by more than chance: a paired t-test over the kinds of
    anomalies, one-sided at 2.5 %. Until then training goes on.
    """

    def __init__(self) -> None:
        self._best_scores: Tensor | None = None
        self._best_state: dict[str, Tensor] = {}
        self.best_step = 0

    def has_forgotten(self, network: nn.Module, step: int, scores: Float[Tensor, " f"]) -> bool:
        """Takes in a check after `step` updates, with one score per kind of anomaly (higher is better).

        The network's state is kept if no earlier one was better.
        """
        if self._best_scores is None or scores.mean() >= self._best_scores.mean():
            self._best_scores, self.best_step = scores, step
            self._best_state = {name: value.detach().clone() for name, value in network.named_parameters()}
            return False
        loss = self._best_scores - scores
        if len(loss) == 1:  # has no standard error
            return bool(loss > 0)
        point = float(special.stdtrit(len(loss) - 1, 0.975))
        return bool(loss.mean() > point * loss.std() / len(loss) ** 0.5)

    @torch.no_grad()
    def restore(self, network: nn.Module) -> None:
        """Gives the network the parameters that it had at `best_step`."""
        for name, parameter in network.named_parameters():
            parameter.copy_(self._best_state[name])
