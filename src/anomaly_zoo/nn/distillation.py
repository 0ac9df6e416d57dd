"""A student that imitates a teacher on normal images: the loss, and the discrepancy that is left.

The discrepancy of teacher and student as an anomaly score: Bergmann et al., "Uninformed Students", CVPR 2020; stage by
stage and at unit length: Wang et al., "Student-Teacher Feature Pyramid Matching", BMVC 2021.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.nn.backbone import stages_of
from anomaly_zoo.nn.features import join
from anomaly_zoo.nn.synthesis import synthesize
from anomaly_zoo.nn.validation import separation

Stages = list[Float[Tensor, "b _ _ _"]]


def distillation_loss(teacher: Stages, student: Stages) -> Float[Tensor, ""]:
    """Sum over the stages of the mean of 1 - cos(teacher, student), which is half a squared distance of unit vectors.

    Args:
        teacher: feature maps of normal images.
        student: of the same images, of the same shapes.

    Example:
        >>> teacher = [torch.tensor([[[[3.0]], [[4.0]]]])]
        >>> distillation_loss(teacher, [2 * teacher[0]]), distillation_loss(teacher, [-teacher[0]])
        (tensor(0.), tensor(2.))
    """
    stages = zip(teacher, student, strict=True)
    return torch.stack([(1 - F.cosine_similarity(t, s, dim=1)).mean() for t, s in stages]).sum()


def discrepancy(teacher: Stages, student: Stages) -> list[Float[Tensor, "b _ _"]]:
    """Euclidean distance of teacher and student at every patch of every stage.

    Args:
        teacher: feature maps.
        student: of the same images, of the same shapes.

    Example:
        >>> discrepancy([torch.tensor([[[[3.0]], [[4.0]]]])], [torch.zeros(1, 2, 1, 1)])
        [tensor([[[5.]]])]
    """
    return [torch.linalg.vector_norm(t - s, dim=1) for t, s in zip(teacher, student, strict=True)]


@torch.no_grad()
def found_negatives(
    teacher: nn.Module, student: nn.Module, normal: Float[Tensor, "n 3 h w"], generator: torch.Generator
) -> float:
    """How well the discrepancy finds synthetic negatives in normal images that the student was not trained on.

    Args:
        teacher: gives feature maps.
        student: gives those of the same shapes.
        normal: held-out normal images in [0, 1].
        generator: a CPU generator, which the negatives are drawn with.

    Returns:
        The mean of two areas under the ROC curve: of patches under a negative's mask against those of the normal
        images, and of negatives against normal images by their largest discrepancy.
    """
    negative, mask = synthesize(normal, generator)
    image = torch.cat([normal, negative])
    distance = join(discrepancy(stages_of(teacher, image), stages_of(student, image)))
    of_normal, of_negative = distance.chunk(2)
    covered = F.adaptive_max_pool2d(mask[:, None].float(), distance.shape[1:])[:, 0] > 0
    sample = of_normal.flatten()[:: max(1, of_normal.numel() // 4096)]
    by_patch = separation(sample, of_negative[covered])
    by_image = separation(of_normal.flatten(1).amax(dim=1), of_negative.flatten(1).amax(dim=1))
    return float(by_patch + by_image) / 2
