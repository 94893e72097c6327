"""Versions as Zarr groups: their arrays, how they are written and read, and where they are stored."""
