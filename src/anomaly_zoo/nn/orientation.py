"""In which orientations a product comes, told by its support alone.

Ours. Views that never occur blunt a memory of normal patches; those that do occur make up for images that are missing.
A turned view that looks like the other normal images is one that occurs.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.nn.nearest import nearest_distance, rows_of
from anomaly_zoo.nn.network import stages_of

NUM_ASKED = 8  # images are enough to tell
NUM_COMPARED = 1024  # patches of the others, an even sample; enough for a mean
TOLERANCE = 1.2


@torch.no_grad()
def find_orientations(backbone: nn.Module, image: Float[Tensor, "k v 3 h w"], path: list[str]) -> list[int]:
    """Numbers of the orientations in which normal images are about as near to other normal images as upright.

    Every image, upright, is compared with all others in each orientation: the mean distance of its patches to the
    nearest ones, divided by that to the others upright, averaged over the stages. Up to `TOLERANCE` counts as near.

    The images are k normal ones or tiles, each in v orientations: first the v / 2 symmetries of their shape. `path` is
    the file that each of the k stems from; a single one gives the symmetries.
    """
    owner = [path.index(name) for name in path]
    if len(set(owner)) == 1:
        return list(range(image.shape[1] // 2))
    ratios = []
    for stage in stages_of(backbone, image.flatten(0, 1)):
        feature = torch.unflatten(F.normalize(stage, dim=1), 0, image.shape[:2])
        distance = torch.zeros(image.shape[1])
        for number, name in enumerate(owner):
            others = [other for other, other_name in enumerate(owner) if other_name != name]
            for view in range(image.shape[1]):
                rows = rows_of(feature[others, view])
                sample = rows[:: max(1, len(rows) // NUM_COMPARED)].contiguous()
                distance[view] += nearest_distance(rows_of(feature[number, :1]), sample).mean().cpu()
        ratios.append(distance / distance[0].clamp(min=torch.finfo(torch.float32).tiny))
    is_near = torch.stack(ratios).mean(dim=0) <= TOLERANCE
    is_near[0] = True
    found: list[int] = is_near.nonzero()[:, 0].tolist()
    return found
