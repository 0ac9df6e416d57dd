"""The machinery of the bench: cells, locks, engines, and the loop that hands the first to the last."""
