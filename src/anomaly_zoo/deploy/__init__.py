"""From an adapted method to an inspection: model folders, thresholds, prediction on files, ONNX export, a local page."""
