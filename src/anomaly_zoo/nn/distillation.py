"""A student that imitates a teacher on normal images: the loss, and the discrepancy that is left.

The discrepancy of teacher and student as an anomaly score: Bergmann et al., "Uninformed Students", CVPR 2020; stage by
stage and at unit length: Wang et al., "Student-Teacher Feature Pyramid Matching", BMVC 2021.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from anomaly_zoo.types import Stages


def distillation_loss(teacher: Stages, student: Stages) -> Float[Tensor, ""]:
    """Sum over the stages of the mean of 1 - cos(teacher, student), which is half a squared distance of unit vectors.

    >>> teacher = [torch.tensor([[[[3.0]], [[4.0]]]])]
    >>> distillation_loss(teacher, [2 * teacher[0]]), distillation_loss(teacher, [-teacher[0]])
    (tensor(0.), tensor(2.))
    """
    stages = zip(teacher, student, strict=True)
    return torch.stack([(1 - F.cosine_similarity(t, s, dim=1)).mean() for t, s in stages]).sum()


def discrepancy(teacher: Stages, student: Stages) -> list[Float[Tensor, "b _ _"]]:
    """Euclidean distance of teacher and student at every patch of every stage.

    >>> discrepancy([torch.tensor([[[[3.0]], [[4.0]]]])], [torch.zeros(1, 2, 1, 1)])
    [tensor([[[5.]]])]
    """
    return [torch.linalg.vector_norm(t - s, dim=1) for t, s in zip(teacher, student, strict=True)]
