"""Where a run runs: Dask clusters from a small spec."""
