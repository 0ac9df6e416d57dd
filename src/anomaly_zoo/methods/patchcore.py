"""patchcore: the frozen reference. It answers what every reader asks: does fine-tuning help at all?

Nearest-neighbour distance to a memory of the support's patches, training-free.
Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
docs/methods/patchcore.md has the evidence marks and the differences from the paper.
"""

from jaxtyping import Float
from torch import Tensor

from anomaly_zoo.module import AnomalyModule, Orientations
from anomaly_zoo.nn.backbone import Backbone, Frozen, stages_of
from anomaly_zoo.nn.features import join, to_image
from anomaly_zoo.nn.memory import PatchMemory
from anomaly_zoo.types import Batch, Prediction


class PatchCore(AnomalyModule):
    """Distance of patches of the frozen backbone to their nearest neighbours in a coreset of the support's.

    Args:
        backbone: stays frozen.
        support_views: views of every support image in the memory; 1 is the paper's.
        orientations: of the views, see `AnomalyModule`.
        max_patches: of every stage that the memory keeps.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        support_views: int = 1,
        orientations: Orientations = "found",
        max_patches: int = 4096,
    ) -> None:
        super().__init__(backbone, support_views=support_views, orientations=orientations)
        if max_patches < 1:
            raise ValueError(f"{max_patches=}: a memory needs at least 1.")
        self.max_patches = max_patches
        self.backbone = Frozen(backbone)
        self.memory = PatchMemory(len(backbone.stages))

    def calibrate(self, support: Batch) -> None:
        """Fills the memory."""
        self.memory.fit(stages_of(self.backbone, support.image), self.max_patches)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        """The map is the smoothed distance of the patches; the image score the largest distance."""
        distance = join(self.memory(self.backbone(image))[0])
        return Prediction(to_image(distance, (image.shape[2], image.shape[3])), distance.flatten(1).amax(dim=1))
