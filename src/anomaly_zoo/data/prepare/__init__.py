"""Public datasets, and folders of one's own, into the MVTec layout."""
