import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_zoo.nn.support_distance import SupportDistance


def stages(num_images: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_images, 6, side, side, generator=generator) for side in (4, 3, 2)]


def distances(query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """At unit length, and as they are to the patches that are nearest at unit length."""
    patches, others = (stage.double().movedim(1, 3).flatten(0, 2) for stage in (query, memory))
    distance, nearest = torch.cdist(F.normalize(patches), F.normalize(others)).topk(4, largest=False)
    weight = distance[:, 3:] - distance
    as_they_are = (weight * (patches[:, None] - others[nearest]).norm(dim=2)).sum(dim=1) / weight.sum(dim=1)
    return distance[:, :3].mean(dim=1), as_they_are


def test_distances_are_in_units_of_held_out_images() -> None:
    support, query = stages(6), stages(2, seed=1)
    instance = torch.tensor([0, 0, 1, 1, 2, 2])
    distance = SupportDistance(3)
    distance.fit(support, instance)
    unit, raw = distance(query)
    assert (len(unit), len(raw)) == (3, 2)
    for measured, stage, kind in [(unit[0], 0, 0), (unit[2], 2, 0), (raw[1], 1, 1)]:
        held_out = []
        for out in range(3):  # the first view of an image against all views of the others
            rest = support[stage][[i for i in range(6) if i // 2 != out]]
            held_out.append(distances(support[stage][2 * out : 2 * out + 1], rest)[kind].mean())
        expected = distances(query[stage], support[stage])[kind] / torch.stack(held_out).mean()
        torch.testing.assert_close(measured.flatten().double(), expected, rtol=1e-4, atol=0)


def test_a_memory_keeps_no_more_than_it_may_and_always_the_same() -> None:
    first, second = SupportDistance(3, max_patches=7), SupportDistance(3, max_patches=7)
    for distance in (first, second):
        distance.fit(stages(6), torch.arange(6))
    memory = dict(first.named_buffers())
    assert len(memory["memory.stage0"]) == 7
    assert all(torch.equal(value, memory[name]) for name, value in second.named_buffers())


def test_a_single_view_and_copies_leave_finite_units() -> None:
    for num_images in (1, 3):
        distance = SupportDistance(3)
        features = [stage[:1].expand(num_images, -1, -1, -1) for stage in stages(1)]
        distance.fit(features, torch.arange(num_images))
        unit, raw = distance(stages(1, seed=1))
        assert all(stage.isfinite().all() for stage in unit + raw)
