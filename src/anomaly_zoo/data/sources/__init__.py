"""One file per dataset that needs converting into the MVTec layout."""
