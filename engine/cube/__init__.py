"""Masks, composites, and the one place that makes them lazy."""
