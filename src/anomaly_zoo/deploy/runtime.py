"""Predicting from an exported model with onnxruntime, NumPy and Pillow alone: no torch.

from anomaly_zoo.deploy.runtime import OnnxInspector
inspector = OnnxInspector("model.onnx")
inspector.inspect([inspector.read("part.png")])

python -m anomaly_zoo.deploy.runtime model.onnx FOLDER out
"""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from anomaly_zoo.deploy.calibration import Calibration
from anomaly_zoo.deploy.inspecting import FORMAT, INPUT, OUTPUTS, Inspection, Inspector, checked, find_images, warn
from anomaly_zoo.deploy.outputs import PredictionWriter, inspect_files


class OnnxInspector(Inspector):
    """Inspects images with a model that `export` wrote; ValueError or OSError if it is something else.

    `num_threads` are those of one inspection; 0 leaves the choice to onnxruntime. `about` is what the export wrote of
    the model: method, category, image shape, false-alarm rate, versions ...
    """

    def __init__(self, path: Path | str, num_threads: int = 0) -> None:
        if not Path(path).is_file():
            found = f"{path} is a folder, no exported model" if Path(path).is_dir() else f"there is no model {path}"
            raise FileNotFoundError(f"{found}: write one with `python -m anomaly_zoo export`.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own kinds derive from nothing more specific
            raise ValueError(f"{path} cannot be loaded ({str(error).splitlines()[0]}): export it anew.") from None
        self.about: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        outputs = tuple(output.name for output in self._session.get_outputs())
        if self.about.get("format") != FORMAT or outputs != OUTPUTS or "calibration" not in self.about:
            found = f"is another model, or of another version (outputs: {', '.join(outputs)[:80]})"
            raise ValueError(f"{path} {found}: write one with `python -m anomaly_zoo export`.")
        super().__init__(Calibration(**json.loads(self.about["calibration"])), json.loads(self.about["warnings"]))

    def inspect(self, images: Sequence[np.ndarray]) -> list[Inspection]:
        """Scores uint8 RGB images of any sizes; those of one size go through the model together."""
        images = checked(images)
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            by_shape[image.shape].append(number)
        found: dict[int, Inspection] = {}
        for numbers in by_shape.values():
            outputs = self._session.run(OUTPUTS, {INPUT: np.stack([images[number] for number in numbers])})
            for number, score, anomaly_map, p, conformal, _ in zip(numbers, *outputs, strict=True):
                is_anomalous = self.is_above(float(score))
                found[number] = Inspection(float(score), float(p), float(conformal), is_anomalous, anomaly_map)
        return [found[number] for number in range(len(images))]


def main(arguments: Sequence[str]) -> int:
    """`MODEL SOURCE... OUTPUT`: inspects files and writes the same as `python -m anomaly_zoo predict`."""
    if len(arguments) < 3:
        sys.stderr.write("usage: python -m anomaly_zoo.deploy.runtime MODEL.onnx IMAGES... OUTPUT\n")
        return 2
    try:
        inspector = OnnxInspector(arguments[0])
        warn(inspector.warnings)
        with PredictionWriter(Path(arguments[-1]), inspector) as writer:
            inspect_files(inspector, find_images(arguments[1:-1]), writer)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{writer.counts}: {arguments[-1]}\n")
    return 1 if writer.counts["unreadable"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
