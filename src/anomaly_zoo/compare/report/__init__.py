"""The report: one HTML file with tables, figures and pictures that opens from disk without a network."""

from anomaly_zoo.compare.report.page import write

__all__ = ["write"]
