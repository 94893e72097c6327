"""What makes versions: reading label maps, counting them with Dask, publishing the result."""
