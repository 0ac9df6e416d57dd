"""The claims of the papers, as configs/claims.yaml has them. Needs no pandas, so that mistakes are answered at once."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import yaml

from anomaly_zoo.measures import SMALLEST
from anomaly_zoo.yaml_files import CLAIMS, did_you_mean, find_method


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One claim, and which rows are compared for it: those of `better`, or those of `equal`."""

    claim: str  # in our words
    source: str  # paper, section
    differs: str  # what is not as in the paper
    better: list[tuple[str, str]] = []  # the first row is better: by the smallest difference worth having ...
    equal: list[str] = []  # any two rows differ by at most `margin`
    margin: float = 0.0  # ... or, with a margin, at most so much worse
    metric: str = "image_auroc"
    lacks: str = ""  # a part of the claim that no row measures, so that it cannot hold

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All that are compared."""
        return [*self.better, *combinations(self.equal, 2)]

    @property
    def rows(self) -> list[str]:
        """All rows, each once."""
        return list(dict.fromkeys(row for pair in self.pairs for row in pair))

    @property
    def border(self) -> float:
        """What differences have to be above; of equal rows, in both directions."""
        return -self.margin if self.margin else SMALLEST[self.metric]


def read(file: Path = CLAIMS, only: Sequence[str] = ()) -> dict[str, Claim]:
    """All claims by name, such as `pf-1`; the part before the dash is the paper. Those of `only` must be there."""
    place, claims = "", {}
    try:
        for name, content in msgspec.convert(yaml.safe_load(file.read_bytes()), dict[str, Any]).items():
            place = f", {name}"
            claims[name] = msgspec.convert(content, Claim)
            _check(claims[name])
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}{place}: {' '.join(str(error).split())}") from None
    for name in only:
        _require("claim", name, claims)
    return claims


def _check(claim: Claim) -> None:
    if bool(claim.better) == bool(claim.equal) or claim.margin < 0 or (claim.equal and not claim.margin):
        raise ValueError("it needs either better, or equal with a margin above 0")
    if len(claim.equal) == 1:
        raise ValueError("equal needs two rows or more")
    _require("metric", claim.metric, SMALLEST)
    for row in claim.rows:
        find_method(row)


def _require(what: str, name: str, known: Iterable[str]) -> None:
    if name not in (known := list(known)):
        raise ValueError(f"no {what} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
