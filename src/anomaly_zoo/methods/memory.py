"""frozen and patchcore: the references. They answer what every reader asks: does fine-tuning help at all?

Nearest-neighbour distance to a memory of the support's patches, training-free.
Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
docs/methods/frozen.md has the evidence marks and the differences from the paper.
"""

from typing import Any

from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.types import Distances, Stages


class FrozenMemory(AnomalyModule):
    """The memory that stands beside every method, alone: the baseline of every gain."""

    def __init__(self, backbone: Backbone, **shared: Any) -> None:
        super().__init__(backbone, **shared)

    def distances(self, features: Stages) -> Distances:
        """None: all distances are the memory's."""
        return Distances()


class PatchCore(AnomalyModule):
    """What people know from elsewhere: a coreset of the patches of the images as they are, and the largest distance.

    Args:
        backbone: stays frozen.
        max_patches: of every stage that the memory keeps.
        support_views: views of every support image in the memory; 1 is the paper's.
        **shared: see `AnomalyModule`.
    """

    pooling = "maximum"
    num_raw_stages = 0
    coreset = True

    def __init__(self, backbone: Backbone, max_patches: int = 4096, support_views: int = 1, **shared: Any) -> None:
        super().__init__(backbone, max_patches=max_patches, support_views=support_views, **shared)

    def distances(self, features: Stages) -> Distances:
        """None: all distances are the memory's."""
        return Distances()
