import copy

import pytest
import torch

from anomaly_zoo.nn.backbone import Backbone, stages_of
from anomaly_zoo.nn.student import Structure, Student

IMAGE = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def teacher() -> Backbone:
    torch.manual_seed(0)
    return Backbone("test_resnet", weights="none").requires_grad_(False)


def num_params(student: Student) -> int:
    return sum(parameter.numel() for parameter in student.parameters())


def test_an_unpruned_student_equals_its_teacher_and_can_be_trained() -> None:
    original = teacher()
    student = Student(original)
    assert all(torch.equal(a, b) for a, b in zip(stages_of(original, IMAGE), stages_of(student, IMAGE), strict=True))
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(parameter.requires_grad for parameter in original.parameters())


def test_pruning_leaves_the_teacher_alone() -> None:
    original = teacher()
    before = copy.deepcopy(original.state_dict())
    student = Student(original)
    student.prune(0.5, IMAGE, "l1", "layer", "channels")
    assert num_params(student) < 0.8 * sum(parameter.numel() for parameter in original.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())


def test_a_random_student_is_another_network() -> None:
    original = teacher()
    student = Student(original, "random")
    assert not torch.equal(stages_of(original, IMAGE)[0], stages_of(student, IMAGE)[0])


@pytest.mark.parametrize("rounds", [2, 3])
def test_rounds_end_at_the_widths_of_pruning_at_once(rounds: int) -> None:
    at_once, by_and_by = Student(teacher()), Student(teacher())
    at_once.prune(0.6, IMAGE, "l1", "layer", "channels")
    for number in range(1, rounds + 1):
        by_and_by.prune(0.6 * number / rounds, IMAGE, "l1", "layer", "channels")
    shapes = [[len(parameter) for parameter in student.parameters()] for student in (at_once, by_and_by)]
    assert max(abs(a - b) for a, b in zip(*shapes, strict=True)) <= 2


@pytest.mark.parametrize("structure", ["channels", "weights"])
def test_another_one_is_rebuilt_from_plain_values_and_the_state(structure: Structure) -> None:
    student = Student(teacher())
    student.prune(0.3, IMAGE, "l1", "layer", structure)
    student.prune(0.6, IMAGE, "l1", "layer", structure)
    again = Student(teacher(), "random")
    again.rebuild(student.pruning)
    again.load_state_dict(student.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(stages_of(student, IMAGE), stages_of(again, IMAGE), strict=True))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pruning_ratio=1\.0"):
        Student(teacher()).prune(1.0, IMAGE, "l1", "layer", "channels")
