"""Refine a map: each step is exact on any box, so that no tiling can be seen."""
