"""Reusable torch blocks: no data, no trainer, no files but weights."""
