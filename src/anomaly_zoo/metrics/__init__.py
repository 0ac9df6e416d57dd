"""Exact metrics of unbounded anomaly scores: pure functions, each with a `torchmetrics.Metric` twin."""

from anomaly_zoo.metrics.aupro import AUPRO, aupro
from anomaly_zoo.metrics.detection import DetectionMetrics, DetectionScores, detection_metrics
from anomaly_zoo.metrics.ranking import AUROC, AveragePrecision, F1Max, auroc, average_precision, f1_max

__all__ = [
    "AUPRO",
    "AUROC",
    "AveragePrecision",
    "DetectionMetrics",
    "DetectionScores",
    "F1Max",
    "aupro",
    "auroc",
    "average_precision",
    "detection_metrics",
    "f1_max",
]
