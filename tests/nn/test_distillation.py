import pytest
import torch
from torch import Tensor

from anomaly_zoo.nn.distillation import discrepancy, distillation_loss


def stages(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 5, side, side, generator=generator) for side in (4, 2)]


def test_the_loss_is_half_the_squared_distance_of_unit_vectors() -> None:
    teacher, student = stages(0), stages(1)
    expected = 0.0
    for t, s in zip(teacher, student, strict=True):
        distances = [
            ((a / a.norm() - b / b.norm()) ** 2).sum().item() / 2
            for a, b in zip(t.permute(0, 2, 3, 1).reshape(-1, 5), s.permute(0, 2, 3, 1).reshape(-1, 5), strict=True)
        ]
        expected += sum(distances) / len(distances)
    assert distillation_loss(teacher, student).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_falls_when_the_student_comes_nearer() -> None:
    teacher, student = stages(0), stages(1)
    losses = [distillation_loss(teacher, [s + w * t for t, s in zip(teacher, student, strict=True)]) for w in (0, 1, 9)]
    assert losses[0] > losses[1] > losses[2] > 0


def test_discrepancy_is_the_distance_of_every_patch() -> None:
    teacher, student = stages(0), stages(1)
    left = discrepancy(teacher, student)
    assert [stage.shape for stage in left] == [(2, 4, 4), (2, 2, 2)]
    torch.testing.assert_close(left[0][1, 2, 3], (teacher[0][1, :, 2, 3] - student[0][1, :, 2, 3]).norm())
