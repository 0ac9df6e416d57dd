"""One file per method: a LightningModule that adapts to the support and scores images."""
