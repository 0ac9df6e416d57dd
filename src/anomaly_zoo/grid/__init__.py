"""The machinery of the bench: cells, claims, engines, and the loop that hands the first to the last."""
