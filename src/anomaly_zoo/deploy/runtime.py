"""Predicting from an exported model with onnxruntime, NumPy and Pillow alone: no torch.

from anomaly_zoo.deploy.runtime import OnnxInspector
inspector = OnnxInspector("model.onnx")
inspector.inspect([inspector.read("part.png")])

python -m anomaly_zoo.deploy.runtime model.onnx FOLDER out
"""

import io
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

from anomaly_zoo.data.image_files import IMAGE_FORMATS, MAX_FILE_BYTES, MAX_IMAGE_PIXELS
from anomaly_zoo.deploy.inspecting import FORMAT, INPUT, OUTPUTS, Inspection, find_images
from anomaly_zoo.deploy.outputs import PredictionWriter, inspect_files
from anomaly_zoo.pictures import Scale

_DEEP = ("I;16", "I;16B", "I;16L", "I")


class OnnxInspector:
    """Inspects images with an exported model.

    Args:
        path: a file written by `python -m anomaly_zoo export`.
        num_threads: of one inspection; 0 leaves the choice to onnxruntime.

    Attributes:
        about: what the export wrote about the model: method, category, image shape, false-alarm rate, versions ...
    """

    def __init__(self, path: Path | str, num_threads: int = 0) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no model {path}: write one with `python -m anomaly_zoo export`.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own kinds derive from nothing more specific
            raise ValueError(f"{path} cannot be loaded ({str(error).splitlines()[0]}): export it anew.") from None
        self.about: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        outputs = tuple(output.name for output in self._session.get_outputs())
        if self.about.get("format") != FORMAT or outputs != OUTPUTS:
            raise ValueError(f"{path} was not written by `python -m anomaly_zoo export`, or by another version of it.")
        self.threshold = float(self.about["threshold"])
        self.scale = Scale(level=float(self.about["map_level"]), threshold=float(self.about["map_threshold"]))

    def read(self, path: Path | str) -> np.ndarray:
        """Reads a file as uint8 RGB `h w 3`, as `decode` does; OSError or ValueError if that is impossible."""
        path = Path(path)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        return decode(path.read_bytes(), str(path))

    def inspect(self, images: Sequence[np.ndarray]) -> list[Inspection]:
        """Scores uint8 RGB images of any sizes; those of one size go through the model together."""
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            by_shape[image.shape].append(number)
        found: dict[int, Inspection] = {}
        for numbers in by_shape.values():
            outputs = self._session.run(OUTPUTS, {INPUT: np.stack([images[number] for number in numbers])})
            for number, score, anomaly_map, p, conformal, is_anomalous in zip(numbers, *outputs, strict=True):
                found[number] = Inspection(float(score), float(p), float(conformal), bool(is_anomalous), anomaly_map)
        return [found[number] for number in range(len(images))]


def decode(data: bytes, name: str) -> np.ndarray:
    """Decodes an image file: grey repeated, alpha dropped, 16 bit scaled, EXIF rotation applied; else ValueError."""
    with warnings.catch_warnings():  # a damaged header makes Pillow warn and go on
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
                if image.width * image.height > MAX_IMAGE_PIXELS:
                    raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_IMAGE_PIXELS}")
                if image.mode in _DEEP and image.format != "BMP":
                    deep = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint32)
                    return np.repeat(((deep + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except Exception as error:  # Pillow raises a dozen kinds for damaged files
            raise ValueError(f"cannot read {name} as an image ({error})") from None


def main(arguments: Sequence[str]) -> int:
    """`MODEL SOURCE... OUTPUT`: inspects files and writes the same as `python -m anomaly_zoo predict`."""
    if len(arguments) < 3:
        sys.stderr.write("usage: python -m anomaly_zoo.deploy.runtime MODEL.onnx IMAGES... OUTPUT\n")
        return 2
    try:
        inspector = OnnxInspector(arguments[0])
        with PredictionWriter(Path(arguments[-1]), inspector) as writer:
            inspect_files(inspector, find_images(arguments[1:-1]), writer)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{writer.counts}: {arguments[-1]}\n")
    return 1 if writer.counts["unreadable"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
