import math

import pytest
import torch
from torch import Tensor

from anomaly_zoo.nn.patch_pairs import patch_losses


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / math.sqrt(float(a @ a)) / math.sqrt(float(b @ b)))


def stages(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal, negative = (torch.randn(count, 5, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(count, 8, 8, dtype=torch.bool)
    mask[0, :4, :5] = True  # whole patches, and a quarter column that covers half of some
    mask[-1, 6:, 7] = True
    return normal, negative, mask


@pytest.mark.parametrize("instance", [[0, 1, 2], [0, 0, 5]])
@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_losses_equal_a_loop_over_patches(instance: list[int], margin: float) -> None:
    normal, negative, mask = stages()
    con, pp, np = [], [], []
    for image in range(3):
        for y in range(4):
            for x in range(4):
                covered = mask[image, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].float().mean().item()
                patch = normal[image, :, y, x]
                to_negative = cosine(patch, negative[image, :, y, x])
                if covered == 0:
                    con.append(to_negative)
                if covered > 0.5:
                    np.append(max(0.0, to_negative - margin))
                others = [other for other in range(3) if instance[other] != instance[image]]
                pp.append(max(cosine(patch, other) for i in others for other in normal[i].flatten(1).T))
    found = patch_losses(normal, negative, mask, torch.tensor(instance), margin)
    assert found.con.item() == pytest.approx(-sum(con) / len(con))
    assert found.pp.item() == pytest.approx(-sum(pp) / len(pp))
    assert found.np.item() == pytest.approx(sum(np) / len(np))


def test_without_pairs_losses_and_gradients_are_0() -> None:
    normal, negative, mask = stages(1)
    normal.requires_grad_()
    covers_all = torch.ones_like(mask)
    alone = patch_losses(normal, negative, covers_all, torch.tensor([0]))
    assert alone.con == 0
    assert alone.pp == 0
    (alone.con + alone.pp).backward()  # type: ignore[no-untyped-call]
    assert normal.grad is not None
    assert not normal.grad.any()
    assert patch_losses(normal, negative, ~covers_all, torch.tensor([0])).np == 0


def test_what_is_pulled_and_pushed() -> None:
    normal, negative, mask = stages()
    negative.requires_grad_()
    losses = patch_losses(normal, negative, mask, torch.tensor([0, 1, 2]), margin=-1.0)
    (losses.con + losses.np).backward()  # type: ignore[no-untyped-call]
    assert negative.grad is not None
    moved = negative.detach() - negative.grad
    before, after = (torch.cosine_similarity(normal, one, dim=1) for one in (negative.detach(), moved))
    covered = torch.nn.functional.adaptive_avg_pool2d(mask[:, None].double(), 4)[:, 0]
    assert (after > before)[covered == 0].all()
    assert (after < before)[covered > 0.5].all()
    half = covered == 0.5
    assert half.any()
    assert torch.equal(after[half], before[half])
