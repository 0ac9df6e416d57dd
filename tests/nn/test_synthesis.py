import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.transforms import resize
from anomaly_zoo.nn.synthesis import FAMILIES, _Canvas, blob, cut_paste, jigsaw, perlin_foreign, synthesize

Family = Callable[[Tensor, Generator], tuple[Tensor, Tensor]]

every_family = pytest.mark.parametrize("family", [*FAMILIES.values(), synthesize])
every_size = pytest.mark.parametrize("size", [(1, 16, 16), (3, 16, 40), (2, 61, 47), (1, 150, 33), (4, 96, 96)])


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def texture(b: int, h: int, w: int, seed: int = 0) -> Tensor:
    """A colour gradient with grain."""
    y, x = torch.meshgrid(torch.linspace(0.3, 0.6, h), torch.linspace(0, 0.2, w), indexing="ij")
    return (torch.stack([y + x, y, y - x]) + 0.05 * torch.randn(b, 3, h, w, generator=seeded(seed))).clamp(0, 1)


@every_family
@every_size
def test_promises_of_every_family(family: Family, size: tuple[int, int, int]) -> None:
    b, h, w = size
    for seed in range(12):
        image = texture(b, h, w)
        untouched = image.clone()
        negative, mask = family(image, seeded(seed))
        assert torch.equal(image, untouched)
        assert negative.shape == image.shape
        assert negative.dtype == image.dtype
        assert mask.shape == (b, h, w)
        assert mask.dtype == torch.bool
        assert 0 <= negative.min() <= negative.max() <= 1
        ratio = mask.flatten(1).float().mean(dim=1)
        assert ratio.min() >= 0.001
        assert ratio.max() <= 0.35
        difference = (negative - image).abs().amax(dim=1)
        assert (difference[~mask] == 0).all()
        for changed, inside in zip(difference > 0, mask, strict=True):
            assert changed[inside].float().mean() > 0.8


@every_family
def test_seed_decides(family: Family) -> None:
    image = texture(4, 64, 48)
    generator = seeded(7)
    first, second, again = family(image, generator), family(image, generator), family(image, seeded(7))
    for one, same, other in zip(first, again, second, strict=True):
        assert torch.equal(one, same)
        for i in range(4):
            assert not torch.equal(one[i], other[i])
    assert len({mask.numpy().tobytes() for mask in first[1]}) == 4


@every_family
def test_the_number_of_threads_changes_nothing(family: Family) -> None:
    image, before = texture(6, 128, 128), torch.get_num_threads()
    results = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        results.append(family(image, seeded()))
    torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@every_family
def test_no_image_sees_another(family: Family) -> None:
    image = texture(4, 64, 48)
    negative, mask = family(image, seeded())
    changed_batch = image.clone()
    changed_batch[:2] = 1 - image[:2].flip(-1)
    negative_again, mask_again = family(changed_batch, seeded())
    assert torch.equal(negative[2:], negative_again[2:])
    assert torch.equal(mask[2:], mask_again[2:])


@every_family
@pytest.mark.parametrize("level", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_a_constant_image_changes_visibly(family: Family, level: float) -> None:
    image = torch.full((4, 3, 64, 64), level)
    for seed in range(5):
        negative, mask = family(image, seeded(seed))
        difference = (negative - image).abs().mean(dim=1)
        assert (difference[~mask] == 0).all()
        for i in range(4):
            assert difference[i][mask[i]].mean() > 0.02
            assert (difference[i][mask[i]] > 0).float().mean() > 0.8


@every_family
def test_an_unlucky_image_changes_too(family: Family) -> None:
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    image = checkers.float().expand(4, 3, 64, 64)
    for seed in range(5):
        negative, mask = family(image, seeded(seed))
        difference = (negative - image).abs().mean(dim=1)
        assert (difference * mask).sum(dim=(1, 2)).div(mask.sum(dim=(1, 2))).min() > 0.02


@every_family
def test_grey_images_stay_grey(family: Family) -> None:
    image = texture(6, 64, 64)[:, :1].expand(-1, 3, -1, -1)
    negative, _ = family(image, seeded())
    assert (negative.amax(dim=1) - negative.amin(dim=1)).max() < 1e-5


@every_family
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types(family: Family, dtype: torch.dtype) -> None:
    image = texture(3, 64, 64).to(dtype)
    negative, mask = family(image, seeded())
    assert negative.dtype == dtype
    assert mask.flatten(1).any(dim=1).all()
    assert torch.equal(negative.where(mask[:, None], 0), negative - image.where(~mask[:, None], 0))


@every_family
def test_too_small_images_are_refused(family: Family) -> None:
    with pytest.raises(ValueError, match=r"15 x 64 pixels: synthetic negatives need at least 16 x 16"):
        family(torch.rand(1, 3, 15, 64), seeded())


def test_cut_paste_is_a_rectangle_of_the_paper_s_area() -> None:
    _, mask = cut_paste(torch.rand(64, 3, 100, 100, generator=seeded()), seeded())
    for one in mask:
        rows, columns = one.any(dim=1).nonzero(), one.any(dim=0).nonzero()
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert one.sum() == height * width
        assert 0.015 < height * width / 1e4 < 0.17
        assert 0.25 < height / width < 4


def test_jigsaw_permutes_and_moves_every_tile() -> None:
    image = torch.rand(32, 3, 60, 60, generator=seeded())
    negative, mask = jigsaw(image, seeded())
    assert not torch.equal(negative, image)
    assert torch.equal(negative.flatten(2).sort().values, image.flatten(2).sort().values)
    assert (negative != image).any(dim=1)[mask].all()


def test_blob_is_one_soft_spot() -> None:
    image = torch.full((16, 3, 128, 128), 0.5)
    negative, mask = blob(image, seeded())
    assert mask.sum() > 0
    edge = mask & ~(torch.nn.functional.avg_pool2d(mask[:, None].float(), 3, 1, 1)[:, 0] > 0.99)
    difference = (negative - image).abs().mean(dim=1)
    assert difference[edge].mean() < 0.6 * difference[mask & ~edge].mean()


def test_foreign_texture_follows_a_coloured_image() -> None:
    image = texture(16, 64, 64)
    negative, mask = perlin_foreign(image, seeded())
    chroma = (negative.amax(dim=1) - negative.amin(dim=1))[mask]
    assert chroma.max() > 0.1


def test_perlin_noise_matches_its_definition() -> None:
    h, w, low, high = 17, 23, 2, 4
    noise = _Canvas(torch.zeros(2, 3, h, w), seeded(3)).perlin(low, high)
    generator = seeded(3)
    cells_y, phase_y, cells_x, phase_x = (torch.rand(2, 1, 1, generator=generator).flatten() for _ in range(4))
    angle = torch.rand(2, high + 2, high + 2, generator=generator) * math.tau

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    for b in range(2):
        for row in range(h):
            for column in range(w):
                y = row / h * (low + (high - low) * float(cells_y[b])) + float(phase_y[b])
                x = column / w * (low + (high - low) * float(cells_x[b])) + float(phase_x[b])
                i, j = math.floor(y), math.floor(x)

                def corner(di: int, dj: int, b: int = b, i: int = i, j: int = j, y: float = y, x: float = x) -> float:
                    theta = float(angle[b, i + di, j + dj])
                    return math.sin(theta) * (y - i - di) + math.cos(theta) * (x - j - dj)

                left = corner(0, 0) + fade(y - i) * (corner(1, 0) - corner(0, 0))
                right = corner(0, 1) + fade(y - i) * (corner(1, 1) - corner(0, 1))
                assert float(noise[b, row, column]) == pytest.approx(left + fade(x - j) * (right - left), abs=1e-5)


def test_synthesize_mixes_all_families_and_only_the_named_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    for name, family in list(FAMILIES.items()):

        def spy(
            image: Tensor, generator: Generator, name: str = name, family: Family = family
        ) -> tuple[Tensor, Tensor]:
            used.extend([name] * len(image))
            return family(image, generator)

        monkeypatch.setitem(FAMILIES, name, spy)
    image = texture(120, 32, 32)
    synthesize(image, seeded())
    assert len(used) == 120
    assert all(used.count(name) >= 8 for name in FAMILIES)
    used.clear()
    synthesize(image, seeded(), ["blob", "blob", "jigsaw"])
    assert set(used) == {"blob", "jigsaw"}
    assert 60 < used.count("blob") < 100


@pytest.mark.parametrize("families", [["scratch"], ["blob", "Jigsaw"], [], "blob"])
def test_unknown_families_are_refused(families: list[str] | str) -> None:
    with pytest.raises(ValueError, match=r"choose one or more of cut_paste, cut_paste_scar, perlin_texture"):
        synthesize(texture(1, 32, 32), seeded(), families)


@every_family
@pytest.mark.parametrize("category", ["mvtec_ad/bottle", "mvtec_ad/screw"])
def test_defects_show_on_real_images(family: Family, category: str, shared_data: Path) -> None:
    files = image_files(shared_data / category / "train" / "good")[:12]
    image = (
        torch.stack([torch.from_numpy(resize(read_image(file), (256, 256))) for file in files]).permute(0, 3, 1, 2)
        / 255
    )
    changes = []
    for seed in range(4):
        negative, mask = family(image, seeded(seed))
        difference = (negative - image).abs().mean(dim=1)
        changes.append((difference * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)))
    assert (torch.cat(changes) > 0.02).float().mean() >= 0.9


def test_autocast_changes_no_pixel() -> None:
    image = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    plain = synthesize(image, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = synthesize(image, torch.Generator().manual_seed(0))
    assert all(torch.equal(first, second) for first, second in zip(plain, mixed, strict=True))
