"""Synthetic negatives: normal images with a defect painted in, and the mask of that defect.

All families share the signature and the promises of `cut_paste`. Their random numbers come from the given CPU generator
alone and never depend on pixels: the same state and batch shape give the same bits, and no image sees another one.

Sources: CutPaste (Li et al., CVPR 2021, section 2.1), DRAEM (Zavrtanik et al., ICCV 2021, section 3.1) and Perlin
("Improving Noise", SIGGRAPH 2002). Ours: `blob`, `jigsaw`, textures without external data, grey images that stay grey,
masks that hold what can be seen (`_Canvas.paint`), and every number for which no paper is named.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor

Images = Float[Tensor, "b 3 h w"]
Negatives = tuple[Float[Tensor, "b 3 h w"], Bool[Tensor, "b h w"]]

_VISIBLE = 0.02  # a change of this mean size, in a range of 1, counts as a defect


def cut_paste(image: Images, generator: Generator) -> Negatives:
    """Pastes a rectangle from elsewhere in the image, colour-jittered: misplaced parts (CutPaste, section 2.1).

    As in the paper, it covers 2 to 15 % of the image with an aspect ratio of 0.3 to 3.3 (relative to that of the
    image). Where the result looks like the original it is also darkened or brightened. Masks are never empty and at
    most 35 % of the image; outside of them no pixel changes.

    Raises:
        ValueError: the image has fewer than 16 pixels a side.

    >>> image, generator = torch.rand(2, 3, 64, 64), torch.Generator().manual_seed(0)
    >>> negative, mask = cut_paste(image, generator)
    >>> bool(mask.any(dim=(1, 2)).all() and (negative == image)[~mask[:, None].expand_as(image)].all())
    True
    """
    canvas = _Canvas(image, generator)
    (h, w), (rows, columns), draw = canvas.size, canvas.positions, canvas.draw
    area, aspect = draw(0.02, 0.15), draw(-math.log(3.3), math.log(3.3)).exp()
    height, width = h * (area * aspect).sqrt(), w * (area / aspect).sqrt()
    top, left = (h - height) * draw(), (w - width) * draw()
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    source = canvas.sample(rows - top + (h - height) * draw(), columns - left + (w - width) * draw())
    return canvas.paint(canvas.jitter(source, 0.2), inside.float())


def cut_paste_scar(image: Images, generator: Generator) -> Negatives:
    """Pastes a thin, rotated, colour-jittered strip from elsewhere: scratches (CutPaste, section 2.1).

    Ours: the strip is 15 to 50 % of the side long, 1 to 2.5 % wide and lies at any angle; the paper's are shorter.
    """
    canvas = _Canvas(image, generator)
    (h, w), (along, across), draw, side = canvas.size, canvas.rotated(), canvas.draw, canvas.side
    length, width = side * draw(0.15, 0.5), (side * draw(0.01, 0.025)).clamp(min=1.5)
    inside = (along.abs() <= length / 2) & (across.abs() <= width / 2)
    source = canvas.sample(across + h * draw(), along + w * draw())
    return canvas.paint(canvas.jitter(source, 0.4), inside.float())


def perlin_texture(image: Images, generator: Generator) -> Negatives:
    """Blends the image's own texture, turned, zoomed, moved and recoloured, into a Perlin mask: wear, misgrown texture.

    Mask and opacity (0.4 to 1) are an idea of DRAEM, section 3.1, whose textures come from another dataset.
    """
    canvas = _Canvas(image, generator)
    (h, w), draw = canvas.size, canvas.draw
    (along, across), zoom = canvas.rotated(), draw(-0.7, 0.7).exp()
    source = canvas.sample(across * zoom + h * draw(), along * zoom + w * draw())
    return canvas.paint(canvas.jitter(source, 0.4), canvas.perlin_region() * draw(0.4, 1.0))


def perlin_foreign(image: Images, generator: Generator) -> Negatives:
    """Blends a foreign texture of two colours (stripes, checkers or noise) into a Perlin mask: contamination."""
    canvas = _Canvas(image, generator)
    (along, across), draw = canvas.rotated(), canvas.draw
    frequency = math.tau / (canvas.side * draw(0.015, 0.06)).clamp(min=4)
    noise = canvas.perlin(6, 12) + canvas.perlin(12, 24) / 2 + canvas.perlin(24, 48) / 4
    stripes, bars = (along * frequency + 4 * noise).sin(), (across * frequency + 4 * noise).sin()
    pattern = torch.sigmoid(3 * canvas.one_of([stripes, stripes * bars, 2 * noise]))[:, None].to(image)
    return canvas.paint(torch.lerp(canvas.colour(), canvas.colour(), pattern), canvas.perlin_region() * draw(0.4, 1.0))


def blob(image: Images, generator: Generator) -> Negatives:
    """Changes a soft-edged blob by one of: a stain of one colour, brightness, blur, noise (mirrored at 0 and 1)."""
    canvas = _Canvas(image, generator)
    (h, w), (along, across), draw, side = canvas.size, canvas.rotated(), canvas.draw, canvas.side
    distance = torch.hypot(along / (side * draw(0.05, 0.2)), across / (side * draw(0.05, 0.2)))
    field = 1 - distance + 0.5 * canvas.perlin(3, 8)
    opacity = (2 * field).clamp(0.1, 1) * (field > 0)
    stain = torch.lerp(image, canvas.colour(), draw(0.4, 0.8)[..., None].to(image))
    gain = (draw(0.4, 1.0) * draw(-1.0, 1.0).sign()).exp()[..., None].to(image)
    coarse = F.avg_pool2d(image.float(), max(2, min(h, w) // 24), ceil_mode=True)
    blur = F.interpolate(coarse, (h, w), mode="bilinear", antialias=True).to(image)  # else bits depend on threads
    noise = torch.randn(len(image), 1, h, w, generator=generator).mul(draw(0.1, 0.25)[..., None]).to(image)
    return canvas.paint(canvas.one_of([stain, image * gain, blur, 1 - (1 - (image + noise).abs()).abs()]), opacity)


def jigsaw(image: Images, generator: Generator) -> Negatives:
    """Cuts a sub-region into 2 x 2 or 3 x 3 tiles and moves every one of them: structural defects."""
    canvas = _Canvas(image, generator)
    (h, w), (rows, columns), draw = canvas.size, canvas.positions, canvas.draw
    count = torch.randint(2, 4, (len(image), 1, 1), generator=generator)
    height, width = (h * draw(0.12, 0.4) / count).ceil(), (w * draw(0.12, 0.4) / count).ceil()
    top, left = ((h - height * count) * draw()).floor(), ((w - width * count) * draw()).floor()
    row, column = ((rows - top) / height).floor(), ((columns - left) / width).floor()
    inside = (row >= 0) & (row < count) & (column >= 0) & (column < count)
    num_tiles, numbers = count[..., 0] ** 2, torch.arange(9)
    order = torch.rand(len(image), 9, generator=generator).where(numbers < num_tiles, 2).argsort(dim=1)
    successor = order.scatter(1, order, order.gather(1, (numbers + 1) % num_tiles))  # one cycle through all tiles
    goal = successor.gather(1, (row * count + column).long().where(inside, 0).flatten(1)).view_as(inside)
    source = canvas.sample(rows + height * (goal // count - row), columns + width * (goal % count - column))
    return canvas.paint(source, inside.float())


FAMILIES = {
    family.__name__: family for family in (cut_paste, cut_paste_scar, perlin_texture, perlin_foreign, blob, jigsaw)
}


def check_families(families: Sequence[str]) -> None:
    """Raises a ValueError for no family, and for one that is not in `FAMILIES`."""
    if not families or not set(families) <= set(FAMILIES):
        raise ValueError(f"families {list(families)}: choose one or more of {', '.join(FAMILIES)}.")


def synthesize(image: Images, generator: Generator, families: Sequence[str] = tuple(FAMILIES)) -> Negatives:
    """Makes one synthetic negative of every image, as `cut_paste` does, each by a family drawn at random.

    A family that is repeated is drawn more often.

    >>> image, generator = torch.rand(2, 3, 64, 64), torch.Generator().manual_seed(0)
    >>> synthesize(image, generator, families=["blob", "jigsaw"])[1].any(dim=(1, 2))
    tensor([True, True])
    """
    check_families(families)
    choice = torch.randint(len(families), (len(image),), generator=generator)
    negative, mask = torch.empty_like(image), torch.empty_like(image[:, 0], dtype=torch.bool)
    with torch.autocast(image.device.type, enabled=False):  # pixels, not features: the same ones at any precision
        for number, name in enumerate(families):
            chosen = (choice == number).nonzero()[:, 0].to(image.device)
            if len(chosen):
                negative[chosen], mask[chosen] = FAMILIES[name](image[chosen], generator)
    return negative, mask


class _Canvas:
    """A batch of images and the random numbers for it. Geometry is computed on the CPU, pixels where they are."""

    def __init__(self, image: Tensor, generator: Generator) -> None:
        h, w = image.shape[-2:]
        if min(h, w) < 16:
            raise ValueError(f"The images have {h} x {w} pixels: synthetic negatives need at least 16 x 16.")
        self.image, self.generator, self.size, self.side = image, generator, (h, w), math.sqrt(h * w)
        self.positions = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")

    def draw(self, low: float = 0.0, high: float = 1.0, columns: int = 1) -> Float[Tensor, "b 1 c"]:
        """Uniform random numbers for every image."""
        return torch.rand(len(self.image), 1, columns, generator=self.generator) * (high - low) + low

    def one_of(self, options: list[Tensor]) -> Tensor:
        """Takes every image from one of the batches."""
        choice = torch.randint(len(options), (len(self.image),), generator=self.generator)
        return torch.stack([options[number][i] for i, number in enumerate(choice.tolist())])

    def rotated(self) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
        """Coordinates in pixels along and across a random direction, from a random pixel that is not at the border."""
        y, x = (at - (n * self.draw(0.1, 0.9)).floor() for at, n in zip(self.positions, self.size, strict=True))
        angle = math.tau * self.draw()
        return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()

    def sample(self, rows: Float[Tensor, "b h w"], columns: Float[Tensor, "b h w"]) -> Images:
        """The nearest pixels to these positions (interpolation would be a trace); the image goes on as its mirror."""
        h, w = self.size
        planes = torch.stack([columns * (2 / (w - 1)) - 1, rows * (2 / (h - 1)) - 1], dim=1)
        grid = planes.permute(0, 2, 3, 1).to(self.image.device)
        return F.grid_sample(self.image.float(), grid, "nearest", "reflection", align_corners=True).to(self.image)

    def jitter(self, patch: Images, strength: float) -> Images:
        """Random hue, saturation, brightness and contrast; grey stays grey."""
        hue, saturation = math.tau / 4 * strength * self.draw(-1.0, 1.0), 1 + strength * self.draw(-1.0, 1.0)
        brightness, contrast = 1 + strength * self.draw(-1.0, 0.5), 1 + strength * self.draw(-1.0, 1.0)
        cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        turn = hue.cos() * torch.eye(3) + (1 - hue.cos()) / 3 + hue.sin() * cross  # Rodrigues, about the grey axis
        linear = brightness * (saturation * turn + (1 - saturation) / 3)
        patch = (linear.to(patch) @ patch.flatten(2)).view_as(patch)
        return torch.lerp(patch.mean((2, 3), keepdim=True), patch, contrast[..., None].to(patch))

    def colour(self) -> Float[Tensor, "b 3 1 1"]:
        """A random colour that is not garish, grey for a grey image."""
        has_colour = (self.image.amax(dim=1) - self.image.amin(dim=1)).mean(dim=(1, 2), keepdim=True) > _VISIBLE
        chroma = self.draw(-0.25, 0.25, columns=3).to(self.image) * has_colour
        return (self.draw().to(self.image) + chroma).clamp(0, 1).mT[..., None]

    def perlin(self, low: int, high: int) -> Float[Tensor, "b h w"]:
        """Perlin's noise in about [-0.7, 0.7], `low` to `high` cells to a side; summed by matrix products."""
        nodes, lattices = torch.arange(high + 2), []
        for n in self.size:
            offset = torch.arange(n)[:, None] / n * (low + (high - low) * self.draw()) + self.draw() - nodes
            near = (1 - offset.abs()).clamp(min=0)
            fade = near**3 * (near * (near * 6 - 15) + 10)
            lattices.append((fade, fade * offset))
        (row, row_offset), (column, column_offset) = lattices
        angle = torch.rand(len(self.image), high + 2, high + 2, generator=self.generator) * math.tau
        return row_offset @ angle.sin() @ column.mT + row @ angle.cos() @ column_offset.mT

    def perlin_region(self) -> Float[Tensor, "b h w"]:
        """1 where Perlin noise is highest, on about 0.5 to 12 % of the image, around one place; 0 elsewhere."""
        y, x = (at / n - self.draw() for at, n in zip(self.positions, self.size, strict=True))
        field = self.perlin(3, 16) - self.draw(0.5, 3.0) * (x.square() + y.square()).sqrt()
        step = max(1, min(self.size) // 64)  # some pixels are enough to know the quantile
        ranked = field[:, ::step, ::step].flatten(1).sort(dim=1, descending=True).values
        kept = (ranked.shape[1] * self.draw(math.log(0.005), math.log(0.12)).exp()).ceil().long()
        return (field > ranked.gather(1, kept[..., 0])[..., None]).float()

    def paint(self, patch: Images, opacity: Float[Tensor, "b h w"]) -> Negatives:
        """Blends the patch in, makes sure that it shows, and masks where it does, judged by cells of pixels."""
        weight, cell = opacity[:, None].to(self.image), max(3, min(self.size) // 32)
        region = weight > 0
        area, covered = region.sum((1, 2, 3), keepdim=True), F.avg_pool2d(region.to(weight), cell, ceil_mode=True)
        enough = (0.75 * area).clamp(max=0.005 * opacity[0].numel())
        blend = torch.lerp(self.image, patch.clamp(0, 1), weight)
        change = self._change(blend, cell)
        is_faint = (covered * (change > 2 * _VISIBLE * covered)).sum((1, 2, 3), keepdim=True) * cell**2 < enough
        if is_faint.any():  # as white pasted on white: pull it to the opposite end
            opposite = ((self.image * region).sum((1, 2, 3), keepdim=True) < 1.5 * area).to(blend)
            blend = torch.lerp(blend, opposite, 0.2 * weight * is_faint)
            change = self._change(blend, cell)
        visible = (F.interpolate(change - _VISIBLE * covered, self.size, mode="bilinear") > 0) & region
        mask = visible | (region & (visible.sum((1, 2, 3), keepdim=True) < enough))
        return torch.lerp(self.image, blend, mask.to(weight)), mask[:, 0]  # as torch.where, six times as fast

    def _change(self, blend: Tensor, cell: int) -> Tensor:
        return F.avg_pool2d((blend - self.image).abs().mean(dim=1, keepdim=True), cell, ceil_mode=True)
