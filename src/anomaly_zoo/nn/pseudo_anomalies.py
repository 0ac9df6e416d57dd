"""Pseudo-anomalies: augmentations strong enough to stand for anomalies where a score is validated; never trained on.

Rippel et al. (arXiv 2108.04116) find the onset of catastrophic forgetting on augmented normal images and report that
the choice of the augmentation matters little. Sources: CutMix (Yun et al., ICCV 2019), Cutout (DeVries and Taylor,
2017), mixup (Zhang et al., ICLR 2018), AugMix (Hendrycks et al., ICLR 2020), CutPaste (Li et al., CVPR 2021), confetti
(Liznerski et al., ICLR 2021). Ours: every number.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torchvision.transforms import v2

from anomaly_zoo.nn.synthesis import cut_paste

Images = Float[Tensor, "b 3 h w"]

NUM_CONFETTI = 12


def cutmix(image: Images, generator: Generator) -> Images:
    """Puts a rectangle of the next image of the batch, turned by 180 degrees, into every image.

    Args:
        image: RGB in [0, 1]; not modified.
        generator: a CPU generator; its state is advanced.

    Returns:
        As many images, of the same size.
    """
    other = image.roll(1, dims=0).flip(2, 3)
    return torch.where(_rectangles(image, generator, 0.02, 0.15), other, image)


def cutout(image: Images, generator: Generator) -> Images:
    """Replaces a rectangle by the mean colour of the image."""
    mean = image.mean(dim=(2, 3), keepdim=True).expand_as(image)
    return torch.where(_rectangles(image, generator, 0.005, 0.05), mean, image)


def mixup(image: Images, generator: Generator) -> Images:
    """Blends every image with 20 to 50 % of the next one of the batch, turned by 180 degrees."""
    weight = _uniform(len(image), generator, 0.2, 0.5).to(image)
    return torch.lerp(image, image.roll(1, dims=0).flip(2, 3), weight)


def augmix(image: Images, generator: Generator) -> Images:
    """Blends chains of random changes of shape and colour with every image."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        mixed = [v2.AugMix(severity=4)((one * 255).round().to(torch.uint8)) for one in image.cpu()]
    return (torch.stack(mixed).to(image) / 255).clamp(0, 1)


def cutpaste(image: Images, generator: Generator) -> Images:
    """Pastes a rectangle from elsewhere in the image, colour-jittered; see `synthesis.cut_paste`."""
    return cut_paste(image, generator)[0]


def confetti(image: Images, generator: Generator) -> Images:
    """Strews small squares of random colours."""
    for _ in range(NUM_CONFETTI):
        colour = torch.rand(len(image), 3, 1, 1, generator=generator).to(image)
        image = torch.where(_rectangles(image, generator, 0.0002, 0.001), colour, image)
    return image


FAMILIES = {family.__name__: family for family in (cutmix, cutout, mixup, augmix, cutpaste, confetti)}
"""Every family by its name."""


def make_pseudo_anomalies(
    image: Images, generator: Generator, families: Sequence[str] = tuple(FAMILIES)
) -> Float[Tensor, "f b 3 h w"]:
    """Makes one pseudo-anomaly of every image by every family.

    Args:
        image: as for `cutmix`.
        generator: as for `cutmix`.
        families: names in `FAMILIES`.

    Raises:
        ValueError: no family, or an unknown one.

    Example:
        >>> image, generator = torch.rand(2, 3, 32, 32), torch.Generator().manual_seed(0)
        >>> make_pseudo_anomalies(image, generator, ["cutout", "mixup"]).shape
        torch.Size([2, 2, 3, 32, 32])
    """
    if not families or not set(families) <= set(FAMILIES):
        raise ValueError(f"pseudo_anomalies={list(families)}: choose one or more of {', '.join(FAMILIES)}.")
    return torch.stack([FAMILIES[name](image, generator) for name in families])


def _uniform(number: int, generator: Generator, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "b 1 1 1"]:
    return torch.rand(number, 1, 1, 1, generator=generator) * (high - low) + low


def _rectangles(image: Images, generator: Generator, low: float, high: float) -> Bool[Tensor, "b 1 h w"]:
    """One rectangle per image that covers this share of it, with an aspect ratio of 1/2 to 2, anywhere inside."""
    number, (h, w) = len(image), image.shape[-2:]
    area = _uniform(number, generator, low, high)
    aspect = _uniform(number, generator, -math.log(2), math.log(2)).exp()
    height, width = (h * (area * aspect).sqrt()).clamp(min=1), (w * (area / aspect).sqrt()).clamp(min=1)
    top = (h - height) * _uniform(number, generator)
    left = (w - width) * _uniform(number, generator)
    rows, columns = torch.arange(h).view(1, 1, h, 1), torch.arange(w).view(1, 1, 1, w)
    inside = (rows >= top.floor()) & (rows < (top + height)) & (columns >= left.floor()) & (columns < (left + width))
    return inside.to(image.device)
