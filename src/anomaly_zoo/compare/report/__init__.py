"""The report: one HTML file with tables, figures and pictures that opens from disk without a network."""
