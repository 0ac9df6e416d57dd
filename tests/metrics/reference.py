"""AUPRO a second time: slow, from the definition, sharing nothing with the package."""

import numpy as np


def flood_fill(mask: np.ndarray) -> list[np.ndarray]:
    """Masks of the 8-connected regions of one image."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while left:
        region, front = np.zeros_like(mask), [left.pop()]
        while front:
            y, x = front.pop()
            region[y, x] = True
            neighbours = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= neighbours
            front.extend(neighbours)
        regions.append(region)
    return regions


def reference_aupro(anomaly_map: np.ndarray, mask: np.ndarray, fpr_limit: float) -> float:
    """The definition, threshold by threshold over all distinct scores, with the trapezoidal rule."""
    regions = [(image, region) for image, one in zip(anomaly_map, mask, strict=True) for region in flood_fill(one)]
    fpr, overlap = [0.0], [0.0]
    for threshold in np.unique(anomaly_map)[::-1]:
        fpr.append(float((anomaly_map[~mask] >= threshold).mean()))
        overlap.append(float(np.mean([(image[region] >= threshold).mean() for image, region in regions])))
    end = int(np.searchsorted(fpr, fpr_limit, side="right"))
    if end < len(fpr):
        share = (fpr_limit - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
        at_limit = overlap[end - 1] + share * (overlap[end] - overlap[end - 1])
        fpr, overlap = [*fpr[:end], fpr_limit], [*overlap[:end], at_limit]
    return float(np.trapezoid(overlap, fpr)) / fpr_limit
