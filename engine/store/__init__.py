"""Zarr on disk or in a bucket: metadata, whole-shard writes with read-back, the ledger of tiles."""
