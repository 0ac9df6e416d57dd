"""Where the YAML files are: the protocol, the methods and their variants. Needs no torch."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).parent
CONFIGS = next(path for path in (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs") if path.is_dir())
BASE = CONFIGS / "base.yaml"
SWEEPS = CONFIGS / "sweeps"
CLAIMS = CONFIGS / "claims.yaml"

Overrides = dict[str, Any]


def method_files() -> dict[str, Path]:
    """The methods: the name of every YAML in configs/methods, and its path."""
    return {path.stem: path for path in sorted((CONFIGS / "methods").glob("*.yaml"))}


def variants(method: str) -> dict[str, Overrides]:
    """The variants of a method by name, each with the constructor arguments that it changes.

    They are in configs/sweeps/<method>.yaml; `coft_paper` shares those of `coft` unless it has a file of its own.

    Raises:
        ValueError: the file is not a mapping of names to arguments.
    """
    files = [SWEEPS / f"{name}.yaml" for name in (method, method.removesuffix("_paper"))]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return {}
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(overrides, dict) for overrides in found.values()):
        example = "`frozen: {steps: 0}`"
        raise ValueError(f"{file} must map the name of every variant to what it changes, such as {example}")
    return found


def find_method(method: str | Path) -> tuple[Path, Overrides]:
    """The YAML file of a method (`coft`, `coft:no_np` or a path), and the constructor arguments that a variant changes.

    Raises:
        ValueError: there is no such method, variant or file.
    """
    if is_file(method):
        if not Path(method).is_file():
            raise ValueError(f"method {str(method)!r} is unknown: there is no such file.")
        return Path(method), {}
    name, colon, variant = str(method).partition(":")
    if name not in method_files():
        hint = did_you_mean(name, method_files())
        raise ValueError(f"method {name!r} is unknown.{hint} Methods: {', '.join(method_files())}; or a .yaml file.")
    known = variants(name) if colon else {"": {}}
    if variant not in known:
        hint = did_you_mean(variant, known, before=f"{name}:")
        raise ValueError(f"{name} has no variant {variant!r}.{hint} Variants: {', '.join(known) or 'none'}.")
    return method_files()[name], known[variant]


def did_you_mean(name: str, known: Iterable[str], before: str = "") -> str:
    """A question with the nearest of the known names, to follow a message; empty if none is near.

    >>> did_you_mean("cofd", ["pf", "coft"])
    ' Did you mean coft?'
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {before}{near[0]}?" if near else ""


def expand(methods: Iterable[str]) -> list[str]:
    """The same methods, each once, with all variants of `coft` in place of `coft:all`.

    Raises:
        ValueError: a method of which all variants are wanted is unknown or has none.
    """
    found: list[str] = []
    for method in methods:
        name = method.removesuffix(":all")
        if name != method:
            find_method(name)
            if not variants(name):
                raise ValueError(f"{name} has no variants.")
        found += [f"{name}:{variant}" for variant in variants(name)] if name != method else [method]
    return list(dict.fromkeys(found))


def name_in_results(method: str | Path) -> str:
    """What results call a method: a YAML file counts by its stem.

    >>> name_in_results("coft:no_np"), name_in_results("trials/coft_long.yaml")
    ('coft:no_np', 'coft_long')
    """
    return Path(method).stem if is_file(method) else str(method)


def is_file(method: str | Path) -> bool:
    """Whether a method is given as a path and not by its name."""
    return str(method).endswith(".yaml")
