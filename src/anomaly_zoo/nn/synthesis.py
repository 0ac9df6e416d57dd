"""Synthetic negatives: normal images with a defect painted in, and the mask of that defect.

Every family takes images and a generator and returns new images and masks. All random numbers come from that CPU
generator and never depend on pixels: the same state and batch shape give the same result bit for bit, on every
device the same defects, and no image sees another one. Positions are uniform, so a defect may lie beside the object.

Sources: CutPaste (Li et al., CVPR 2021, section 2.1), DRAEM (Zavrtanik et al., ICCV 2021, section 3.1), Perlin
("Improving Noise", SIGGRAPH 2002). Ours: the numbers where none is cited, `blob`, `jigsaw`, textures without external
data, grey images that stay grey, and masks that hold what can be seen (`_composite`).
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

Images: TypeAlias = Float[Tensor, "b 3 h w"]
Negatives: TypeAlias = tuple[Float[Tensor, "b 3 h w"], Bool[Tensor, "b h w"]]

_VISIBLE = 0.02  # mean change of a neighbourhood, of a range of 1, that counts as a defect
_OCTAVES = 3


def cut_paste(image: Images, generator: Generator) -> Negatives:
    """Pastes a rectangle from elsewhere in the image, colour-jittered (CutPaste, section 2.1).

    As in the paper the area is 2 to 15 % of the image and the aspect ratio 0.3 to 3.3, relative to the image's own.
    Where source and target look alike (always on a constant image) the jitter is strengthened until it shows.

    Args:
        image: RGB in [0, 1], at least 16 pixels high and wide; not modified.
        generator: a CPU generator; its state is advanced.

    Returns:
        The negatives in [0, 1] and their masks, True where anomalous. Outside the mask nothing changes.

    Raises:
        ValueError: the image is smaller than 16 pixels.

    Example:
        >>> negative, mask = cut_paste(torch.rand(2, 3, 64, 64), torch.Generator().manual_seed(0))
        >>> negative.shape, mask.shape, mask.dtype
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 64, 64]), torch.bool)
    """
    rows, columns = _positions(image)
    (b, h, w), draw = (len(image), *image.shape[-2:]), _Draw(generator, len(image))
    area, root = draw(0.02, 0.15), draw(-math.log(3.3), math.log(3.3)).div(2).exp()
    height, width = area.sqrt() * root * h, area.sqrt() / root * w
    top, left = (h - height) * draw(), (w - width) * draw()
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    source = _sample(image, rows - top + (h - height) * draw(), columns - left + (w - width) * draw())
    return _composite(image, _jitter(source, draw, 0.3), inside.float())
