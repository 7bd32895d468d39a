"""One band vocabulary: ``B02``, ``blue``, ``B02_10m`` and a provider's own key all name one band.

Common names follow the STAC electro-optical extension (v1.1); resolutions and central wavelengths the
Sentinel-2 MSI technical guide (ESA, S2A values). File names of the probabilities are those of the
Sentinel-2 Products Specification Document (MSK_CLDPRB, MSK_SNWPRB; CLD and SNW before baseline 02.09).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from engine.values.errors import InputError


@dataclass(frozen=True)
class Band:
    """One spectral band, quality layer or polarisation.

    Attributes:
        name: Name within landweave; the STAC common name, made unique.
        msi: Sentinel-2 identifier, e.g. ``B02``; for radar the polarisation.
        resolution_m: Native pixel size in metres.
        wavelength_um: Central wavelength in micrometres, 0 for quality layers and radar.
        aliases: Other keys under which providers store it.
        kind: ``reflectance`` (offset and scale hold for it), ``class``, ``probability`` (percent) or
            ``backscatter``.
    """

    name: str
    msi: str
    resolution_m: int
    wavelength_um: float = 0.0
    aliases: tuple[str, ...] = ()
    kind: Literal["reflectance", "class", "probability", "backscatter"] = "reflectance"


BANDS: tuple[Band, ...] = (
    Band("coastal", "B01", 60, 0.443),
    Band("blue", "B02", 10, 0.490),
    Band("green", "B03", 10, 0.560),
    Band("red", "B04", 10, 0.665),
    Band("rededge1", "B05", 20, 0.704, ("rededge071",)),
    Band("rededge2", "B06", 20, 0.741, ("rededge075",)),
    Band("rededge3", "B07", 20, 0.783, ("rededge078",)),
    Band("nir", "B08", 10, 0.833),
    Band("nir08", "B8A", 20, 0.865, ("rededge4",)),
    Band("nir09", "B09", 60, 0.945),
    Band("cirrus", "B10", 60, 1.374),
    Band("swir16", "B11", 20, 1.610, ("swir_1",)),
    Band("swir22", "B12", 20, 2.190, ("swir_2",)),
    Band("scl", "SCL", 20, aliases=("scene_classification",), kind="class"),
    Band("cloud", "CLDPRB", 20, 0.0, ("MSK_CLDPRB", "cloud_probability", "CLD"), "probability"),
    Band("snow", "SNWPRB", 20, 0.0, ("MSK_SNWPRB", "snow_probability", "SNW"), "probability"),
    Band("vv", "VV", 10, kind="backscatter"),
    Band("vh", "VH", 10, kind="backscatter"),
)

_INDEX: dict[str, Band] = {}
for _band in BANDS:
    for _key in (_band.name, _band.msi, *_band.aliases):
        _INDEX[_key.lower()] = _band
    if re.fullmatch(r"B0\d", _band.msi):
        _INDEX[f"b{_band.msi[2]}"] = _band  # B2 for B02, as older tools write it


def band(name: str) -> Band:
    """Find a band by any of its names.

    >>> band("B02_10m").name, band("blue").msi, band("B8A").resolution_m
    ('blue', 'B02', 20)

    Raises:
        InputError: If no band has that name; lists those that exist.
    """
    found = find_band(name)
    if found is None:
        raise InputError(
            "unknown band", where="bands", found=name, limit=", ".join(f"{b.name} ({b.msi})" for b in BANDS)
        )
    return found


def find_band(name: str) -> Band | None:
    """Find a band by any of its names, or return None (an asset that is no band)."""
    key = re.sub(r"[_-](10|20|60)m$", "", name.strip().lower())
    return _INDEX.get(key)


def common_name(name: str) -> str:
    """Return landweave's name of a band."""
    return band(name).name
