"""anomaly_zoo: a few normal images in, three fine-tuning methods, one protocol, one honest comparison."""

__version__ = "0.1.0"
