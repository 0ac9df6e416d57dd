import torch
from torch import Tensor

from anomaly_zoo.nn.support_distance import SupportDistance


def stages(num_images: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_images, 6, side, side, generator=generator) for side in (4, 3, 2)]


def rows(stage: Tensor, unit: bool) -> Tensor:
    patches = stage.double().movedim(1, 3).flatten(0, 2)
    return patches / patches.norm(dim=1, keepdim=True) if unit else patches


def nearest(query: Tensor, memory: Tensor) -> Tensor:
    return torch.cdist(query, memory).topk(3, largest=False).values.mean(dim=1)


def test_distances_are_in_units_of_held_out_images() -> None:
    support, query = stages(6), stages(2, seed=1)
    instance = torch.tensor([0, 0, 1, 1, 2, 2])
    distance = SupportDistance(3)
    distance.fit(support, instance)
    unit, raw = distance(query)
    assert (len(unit), len(raw)) == (3, 2)
    for measured, stage, is_unit in [(unit[0], 0, True), (unit[2], 2, True), (raw[1], 1, False)]:
        held_out = []
        for out in range(3):  # the first view of an image against all views of the others
            rest = support[stage][[i for i in range(6) if i // 2 != out]]
            held_out.append(nearest(rows(support[stage][2 * out : 2 * out + 1], is_unit), rows(rest, is_unit)).mean())
        expected = nearest(rows(query[stage], is_unit), rows(support[stage], is_unit)) / torch.stack(held_out).mean()
        torch.testing.assert_close(measured.flatten().double(), expected, rtol=1e-4, atol=0)


def test_a_memory_keeps_no_more_than_it_may_and_always_the_same() -> None:
    first, second = SupportDistance(3, max_patches=7), SupportDistance(3, max_patches=7)
    for distance in (first, second):
        distance.fit(stages(6), torch.arange(6))
    memory = dict(first.named_buffers())
    assert len(memory["unit_memory.stage0"]) == 7
    assert all(torch.equal(value, memory[name]) for name, value in second.named_buffers())


def test_a_single_view_and_copies_leave_finite_units() -> None:
    for num_images in (1, 3):
        distance = SupportDistance(3)
        features = [stage[:1].expand(num_images, -1, -1, -1) for stage in stages(1)]
        distance.fit(features, torch.arange(num_images))
        unit, raw = distance(stages(1, seed=1))
        assert all(stage.isfinite().all() for stage in unit + raw)
