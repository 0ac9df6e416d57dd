"""Where the YAML files are: the protocol and the methods. Needs no torch."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
CONFIGS = next(path for path in (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs") if path.is_dir())
BASE = CONFIGS / "base.yaml"


def method_files() -> dict[str, Path]:
    """The methods: the name of every YAML in configs/methods, and its path."""
    return {path.stem: path for path in sorted((CONFIGS / "methods").glob("*.yaml"))}
