"""Versions on disk or in a bucket: Zarr groups, their arrays and checkpoints."""
