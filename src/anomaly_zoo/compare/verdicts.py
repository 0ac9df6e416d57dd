"""Does a claim hold on another product and another support? Intervals over categories, and verdicts.

Another product and support bring other categories, seeds and test images; all are in how far the means of categories
lie apart, so the interval of a mean difference is Student's t over these means.

A claim is a set of bounds that all have to hold (an intersection-union test, Berger 1982); equality within a margin is
two bounds for each pair (two one-sided tests, Schuirmann 1987). Claims of one paper share Holm's correction.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, log2
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from anomaly_zoo.compare.statistics import holm

ONE_SIDED = 0.025
POWER = 0.8
_MOST = 1000  # categories or seeds that anybody would try
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """The mean over categories of one row's metric less another's."""

    mean: float
    spread: float  # standard deviation of the means of categories
    of_seeds: float  # the part of the spread's square that more seeds would shrink
    categories: int
    seeds: float  # of each category, in the mean

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.spread / float(np.sqrt(self.categories))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval; infinite for a single category."""
        degrees = self.categories - 1
        half = float(special.stdtrit(degrees, 1 - ONE_SIDED)) * self.error if degrees else inf
        return self.mean - half, self.mean + half


class Bound(NamedTuple):
    """`difference > border`, which a claim asks for."""

    difference: Difference
    border: float

    def p_value(self, holds: bool) -> float:
        """One-sided p-value of its opposite if it `holds`, or else of itself; where nothing varies, a sign test's."""
        beyond = self.difference.mean - self.border if holds else self.border - self.difference.mean
        if self.difference.error < _ROUNDING:
            chance = 0.5**self.difference.categories
            return chance if beyond > 0 else 1 - chance
        return float(special.stdtr(self.difference.categories - 1, -beyond / self.difference.error))


def difference(categories: Sequence[Float[np.ndarray, " _"]]) -> Difference:
    """From the differences in every category, one for each seed.

    >>> difference([np.array([0.25, 0.5]), np.array([0.5, 0.75])]).mean
    0.5
    """
    means = [float(seeds.mean()) for seeds in categories]
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
    of_seeds = [float(seeds.var(ddof=1)) / len(seeds) for seeds in categories if len(seeds) > 1]
    num_seeds = float(np.mean([len(seeds) for seeds in categories]))
    return Difference(float(np.mean(means)), spread, float(np.mean(of_seeds or [0.0])), len(means), num_seeds)


def verdicts(claims: Sequence[Sequence[Bound]]) -> list[str]:
    """On the claims of one paper: *holds*: every bound does; *does not hold*: at least one is broken; or *cannot tell*.

    Both at 2.5 % one-sided after Holm's correction.
    """
    for_it = holm([max(bound.p_value(holds=True) for bound in bounds) for bounds in claims])
    against = holm([min(1.0, len(bounds) * min(bound.p_value(holds=False) for bound in bounds)) for bounds in claims])
    return [
        "holds" if p <= ONE_SIDED else "does not hold" if q <= ONE_SIDED else "cannot tell"
        for p, q in zip(for_it, against, strict=True)
    ]


def smallest_found(difference: Difference, num_tests: int = 1) -> float:
    """How far beyond its border a true difference must be to be found in 80 % of repetitions; infinite for 1 category.

    The first of the paper's `num_tests` claims to be found has to pass Holm's strictest step.
    """
    degrees = difference.categories - 1
    if not degrees:
        return inf
    needed = -float(special.stdtrit(degrees, ONE_SIDED / num_tests))
    shift = optimize.brentq(lambda away: special.nctdtr(degrees, away, needed) - (1 - POWER), 0, 2 * needed + 10)
    return float(shift) * difference.error


def needed(bounds: Sequence[Bound], num_tests: int = 1) -> tuple[int | None, int | None]:
    """How many categories, or else seeds of these, would tell in 80 % of repetitions; None where not even 1,000 would.

    If all differences are what they seem: to hold, a claim has to show all bounds; to be broken, one that seems to be.
    """
    broken = [bound for bound in bounds if bound.difference.mean <= bound.border]
    tests, choose = (num_tests * len(bounds), min) if broken else (num_tests, max)
    counts = [_needed(bound, tests) for bound in broken or bounds]
    categories, seeds = choose(n for n, _ in counts), choose(seeds for _, seeds in counts)
    return (int(categories) if categories < _MOST else None), (int(seeds) if seeds < _MOST else None)


def _needed(bound: Bound, num_tests: int) -> tuple[int | float, int | float]:
    difference = bound.difference
    distance = abs(difference.mean - bound.border)
    spread = difference.spread if difference.categories > 1 else difference.of_seeds**0.5  # which is the least
    if not distance or spread < _ROUNDING:
        return (ceil(log2(num_tests / ONE_SIDED)) if distance else inf), inf

    def tells(count: int) -> bool:
        return smallest_found(replace(difference, spread=spread, categories=count), num_tests) <= distance

    categories = 2 + bisect_left(range(2, _MOST), True, key=tells)
    # So much of the spread's square may be left to the seeds
    allowed = (distance / smallest_found(replace(difference, spread=1.0), num_tests)) ** 2
    left = allowed - max(0.0, spread**2 - difference.of_seeds)
    seeds = ceil(difference.seeds * difference.of_seeds / left) if left > 0 and difference.of_seeds else inf
    return categories, seeds
