"""The counting side of statsvc: read label maps, count them with Dask, and publish versions."""
