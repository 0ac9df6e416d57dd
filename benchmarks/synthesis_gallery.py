"""Draws the synthetic negatives: one row per family, for every category one column with the outline of the mask.

    python benchmarks/synthesis_gallery.py --root DIR --output docs/images/synthesis.png

DIR is searched for categories in the MVTec layout. Publish only what the licence of the images allows.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.transforms import resize
from anomaly_zoo.nn.synthesis import FAMILIES

_OUTLINE = (0, 255, 0)
_GAP_PX = 4


def main() -> None:
    """Reads the command line and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder with categories somewhere below it")
    parser.add_argument("--output", type=Path, required=True, help="the PNG file to write")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other defects")
    parser.add_argument("--plain", action="store_true", help="beside every outlined image, show it without the outline")
    args = parser.parse_args()

    folders = sorted(args.root.rglob("train/good"))
    if not folders:
        parser.error(f"no <category>/train/good below {args.root}")
    pixels = [resize(read_image(image_files(folder)[0]), (args.size, args.size)) for folder in folders]
    image = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255

    rows = []
    for name, family in FAMILIES.items():
        negative, mask = family(image, torch.Generator().manual_seed(args.seed))
        row = [cell for pair in zip(negative, mask, strict=True) for cell in _cells(*pair, plain=args.plain)]
        cv2.putText(row[0], name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 0, 0), 1, cv2.LINE_AA)
        rows.append(np.hstack(row))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.output), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    print(f"{args.output}: {', '.join(FAMILIES)} on {', '.join(folder.parents[1].name for folder in folders)}")


def _cells(negative: Tensor, mask: Tensor, *, plain: bool) -> list[np.ndarray]:
    pixels = np.ascontiguousarray((negative * 255).round().byte().permute(1, 2, 0).numpy())
    outlined = pixels.copy()
    contours, _ = cv2.findContours(mask.byte().numpy(), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(outlined, contours, -1, _OUTLINE, 1)
    cells = [pixels, outlined] if plain else [outlined]
    border = [(0, _GAP_PX), (0, _GAP_PX), (0, 0)]
    return [np.pad(cell, border, constant_values=255) for cell in cells]


if __name__ == "__main__":
    main()
