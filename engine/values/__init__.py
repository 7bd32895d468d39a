"""Frozen values that travel: no I/O but the reading of an outline, no heavy imports."""
