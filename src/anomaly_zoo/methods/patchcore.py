"""patchcore: the frozen reference. It answers what every reader asks: does fine-tuning help at all?

Nearest-neighbour distance to a memory of the support's patches, training-free.
Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
docs/methods/patchcore.md has the evidence marks and the differences from the paper.
"""

from jaxtyping import Float
from torch import Tensor

from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone, Frozen
from anomaly_zoo.nn.features import patch_grid, to_image, to_patches
from anomaly_zoo.nn.memory import PatchMemory
from anomaly_zoo.types import Batch, Prediction


class PatchCore(AnomalyModule):
    """Distance of patches of the frozen backbone to their nearest neighbour in a coreset of the support's.

    Args:
        backbone: stays frozen.
        support_views: views of every support image in the memory; 1 is the paper's.
        coreset_ratio: part of the support's patches that the memory keeps, in (0, 1].
        max_patches: and never more than this many.
        neighbourhood: odd side, in positions, of the window over which stages are averaged (section 3.1).

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        support_views: int = 1,
        coreset_ratio: float = 0.25,
        max_patches: int = 4096,
        neighbourhood: int = 1,
    ) -> None:
        super().__init__(backbone, support_views=support_views)
        if not 0 < coreset_ratio <= 1 or max_patches < 1 or neighbourhood % 2 == 0:
            raise ValueError(f"{coreset_ratio=} in (0, 1], {max_patches=} >= 1 and an odd {neighbourhood=} are needed.")
        self.coreset_ratio = coreset_ratio
        self.max_patches = max_patches
        self.neighbourhood = neighbourhood
        self.backbone = Frozen(backbone)
        self.memory = PatchMemory()

    def calibrate(self, support: Batch) -> None:
        """Fills the memory."""
        patches = to_patches(self._grid(support.image))
        self.memory.fit(patches, size=min(max(1, round(self.coreset_ratio * len(patches))), self.max_patches))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        """The map is the smoothed distance of the patches; the image score the largest distance."""
        grid = self._grid(image)
        distance = self.memory(to_patches(grid)).unflatten(0, (len(grid), *grid.shape[2:]))
        anomaly_map = to_image(distance, (image.shape[2], image.shape[3]))
        return Prediction(anomaly_map, distance.flatten(1).amax(dim=1))

    def _grid(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        return patch_grid(self.backbone(image), self.neighbourhood)
