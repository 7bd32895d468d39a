"""Staging: local imagery of any shape becomes a STAC catalogue that `search` reads.

Floors::

    catalogue                    a file or folder in, a catalogue out
    rasters  netcdf  safe        what each kind of file holds
    layers  items  pixels  names bands and dates of a layer, its item, its footprint, what its name tells
"""

from engine.archive.staging.catalogue import Hints, hints_of, stage

__all__ = ["Hints", "hints_of", "stage"]
