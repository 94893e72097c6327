"""Counting batches of label maps on a Dask cluster, or in this process."""
