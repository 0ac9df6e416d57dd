"""What to run with a dataset that is ready, as commands to copy."""

import shlex
from collections import Counter
from pathlib import Path

from anomaly_zoo.data.prepare.tree import Files
from anomaly_zoo.data.regions import MASK_FOLDER, POLYGON_FILE

_SHOTS = 8


def commands_to_run(root: Path, files: Files, category: str = "") -> str:
    """The command that runs the benchmark on a dataset or one category; without anomalous images, those that adapt."""
    parts = [place.split("/") for place in files]
    train = Counter(part[0] for part in parts if part[1] == "train")
    shots = min([_SHOTS, *train.values()])
    if any(part[1] == "test" and part[2] != "good" for part in parts):
        is_plain = len(f"{root}{category}".split()) == 1
        only = f" {'CATEGORY=' if is_plain else '--category '}{shlex.quote(category)}" if category else ""
        if is_plain:
            return f"make bench METHOD=frozen SHOTS={shots} ROOT={shlex.quote(str(root))}{only}"
        return f"python -m anomaly_zoo.bench --method frozen --shots {shots} --root {shlex.quote(str(root))}{only}"
    lines = []
    with_region = {part[0] for part in parts if part[1] in (POLYGON_FILE, MASK_FOLDER)}
    for category in sorted(train):
        fit = (
            "python -m anomaly_zoo fit --config configs/methods/frozen.yaml "
            f"--data.root {shlex.quote(str(root))} --data.category {shlex.quote(category)} --data.shots {shots}"
        )
        model = shlex.quote(f"models/{category}")
        if category in with_region:  # a model folder cannot hold one
            lines.append(fit)
        else:
            lines += [f"{fit} --output {model}", f"python -m anomaly_zoo predict --model {model} FOLDER --output found"]
    return "\n".join(lines)
