"""The MVTec layout as a LightningDataModule, and converters into it."""
