"""What is known about one run: the record whose fields are the top-level keys of its JSON file. Needs no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

SCHEMA_VERSION = 1


class Support(TypedDict):
    """The normal images that a method adapted to: their `paths`, and the `sha256` of that list."""

    paths: list[str]
    sha256: str


class ImageScore(TypedDict):
    """One test image: its `defect` (test sub-folder), whether it is anomalous (`label`), and its image `score`."""

    path: str
    defect: str
    label: bool
    score: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything that is known about one run. The field names are the JSON's top-level keys.

    Attributes:
        dataset, category, backbone: names.
        method: the stem of the method's file in configs/methods; a variant of it is `coft:no_np`.
        shots: number of support images.
        seed: what the support and every random choice follow from.
        status: `failed` when the run ended with an error; then everything measured may be missing.
        metrics: scores over the whole test split, higher is better unless the name says otherwise.
        per_defect: the same scores per defect, each against all normal test images.
        undefined: for every metric that cannot be computed here (pixel metrics without masks), the reason.
        timing: `adapt_s`, `test_s` and `ms_per_image` (warm, median).
        resources: `peak_rss_mib`, `trainable_params`, and what else the method costs.
        support: the images that the method adapted to.
        images: one score per test image.
        training: `steps` (updates made), `kept_step` (the step whose weights were kept; 0: those before training), and
            `weights_moved` (how far the fine-tuned network moved, relative to its norm); empty without training.
        config: the resolved configuration, nested.
        versions: package name to version.
        git: `commit` of the code and whether files had changed since (`dirty`); None outside a repository.
        device: what the run ran on, in words.
        started: start of the run, ISO 8601 in UTC.
        cell: hash of what decides the numbers (see `grid.cells.identity`); empty if it was not run by the bench.
        error: last words of a failed run, None otherwise.
        schema: version of this layout.
    """

    schema: int = SCHEMA_VERSION
    dataset: str
    category: str
    method: str
    shots: int
    seed: int
    backbone: str
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    per_defect: dict[str, dict[str, float]] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    resources: dict[str, int | float] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)
    device: str = ""
    started: str = ""
    cell: str = ""
    git: dict[str, str | bool] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    support: Support = field(default_factory=lambda: Support(paths=[], sha256=""))
    images: list[ImageScore] = field(default_factory=list)

    def path_in(self, store: Path) -> Path:
        """Where this result lies in `store` (see `result_path`)."""
        return result_path(store, self.dataset, self.category, self.method, self.shots, self.seed)


def result_path(store: Path, dataset: str, category: str, method: str, shots: int, seed: int) -> Path:
    """Where the result of a run lies: `<store>/<dataset>/<category>/<method>/shots=8/seed=0.json`.

    Those of the variant `coft:no_np` lie in the folder `coft@no_np`, since Windows allows no colon in names.

    Raises:
        ValueError: if a name is not the name of one folder, or a number is negative.

    >>> result_path(Path("results"), "mvtec", "bottle", "coft", shots=8, seed=0).as_posix()
    'results/mvtec/bottle/coft/shots=8/seed=0.json'
    """
    if "@" in method:
        raise ValueError(f"method {method!r} must not contain '@', which stands for ':' in the names of folders")
    for what, name in {"dataset": dataset, "category": category, "method": method}.items():
        if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
            raise ValueError(f"{what} {name!r} must be the name of one folder: not '.' or '..', without '/' or '\\'")
    if shots < 0 or seed < 0:
        raise ValueError(f"shots and seed must not be negative: shots={shots}, seed={seed}")
    return Path(store, dataset, category, method.replace(":", "@"), f"shots={shots}", f"seed={seed}.json")
