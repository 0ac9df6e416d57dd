"""Exact metrics of unbounded anomaly scores."""

from anomaly_zoo.metrics.aupro import AUPRO, aupro
from anomaly_zoo.metrics.detection import DetectionMetrics, DetectionScores, detection_metrics
from anomaly_zoo.metrics.ranking import auroc

__all__ = ["AUPRO", "DetectionMetrics", "DetectionScores", "aupro", "auroc", "detection_metrics"]
