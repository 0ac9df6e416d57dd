"""From an adapted method to an inspection: model folders, thresholds, prediction on files, export, a local page."""
