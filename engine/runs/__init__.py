"""Tiles to records: a pure state machine over any tile job, and a thin Dask driver."""
