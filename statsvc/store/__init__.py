"""Versions (Zarr groups) and the catalog (SQL): the only place where the two halves of statsvc touch."""
