"""Legends of public maps: what the numbers of their pixels mean, as class schemes.

Sources of the numbers, names and colours: ESA WorldCover 2021 v200, Product User Manual (2022), table 3; CORINE
Land Cover nomenclature, European Environment Agency (2019), codes and the raster's numbers 1 to 44; EUCROPMAP
2018, d'Andrimont et al. 2021, Remote Sensing of Environment 266:112708; Cropland Data Layer, USDA NASS (2023),
the common crops and all other land.
"""

from __future__ import annotations

from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError

_Row = tuple[int, str, str, str | None]
"""Number in the map, name, colour, broader class."""

_WORLDCOVER: tuple[_Row, ...] = (
    (10, "Tree cover", "#006400", None),
    (20, "Shrubland", "#ffbb22", None),
    (30, "Grassland", "#ffff4c", None),
    (40, "Cropland", "#f096ff", None),
    (50, "Built-up", "#fa0000", None),
    (60, "Bare / sparse vegetation", "#b4b4b4", None),
    (70, "Snow and ice", "#f0f0f0", None),
    (80, "Permanent water bodies", "#0064c8", None),
    (90, "Herbaceous wetland", "#0096a0", None),
    (95, "Mangroves", "#00cf75", None),
    (100, "Moss and lichen", "#fae6a0", None),
)

_CORINE_LEVEL1 = {
    1: "Artificial surfaces",
    2: "Agricultural areas",
    3: "Forest and semi-natural areas",
    4: "Wetlands",
    5: "Water bodies",
}

_CORINE: tuple[tuple[int, str, str], ...] = (
    (111, "Continuous urban fabric", "#e6004d"),
    (112, "Discontinuous urban fabric", "#ff0000"),
    (121, "Industrial or commercial units", "#cc4df2"),
    (122, "Road and rail networks and associated land", "#cc0000"),
    (123, "Port areas", "#e6cccc"),
    (124, "Airports", "#e6cce6"),
    (131, "Mineral extraction sites", "#a600cc"),
    (132, "Dump sites", "#a64d00"),
    (133, "Construction sites", "#ff4dff"),
    (141, "Green urban areas", "#ffa6ff"),
    (142, "Sport and leisure facilities", "#ffe6ff"),
    (211, "Non-irrigated arable land", "#ffffa8"),
    (212, "Permanently irrigated land", "#ffff00"),
    (213, "Rice fields", "#e6e600"),
    (221, "Vineyards", "#e68000"),
    (222, "Fruit trees and berry plantations", "#f2a64d"),
    (223, "Olive groves", "#e6a600"),
    (231, "Pastures", "#e6e64d"),
    (241, "Annual crops associated with permanent crops", "#ffe6a6"),
    (242, "Complex cultivation patterns", "#ffe64d"),
    (243, "Agriculture with significant natural vegetation", "#e6cc4d"),
    (244, "Agro-forestry areas", "#f2cca6"),
    (311, "Broad-leaved forest", "#80ff00"),
    (312, "Coniferous forest", "#00a600"),
    (313, "Mixed forest", "#4dff00"),
    (321, "Natural grasslands", "#ccf24d"),
    (322, "Moors and heathland", "#a6ff80"),
    (323, "Sclerophyllous vegetation", "#a6e64d"),
    (324, "Transitional woodland-shrub", "#a6f200"),
    (331, "Beaches, dunes, sands", "#e6e6e6"),
    (332, "Bare rocks", "#cccccc"),
    (333, "Sparsely vegetated areas", "#ccffcc"),
    (334, "Burnt areas", "#000000"),
    (335, "Glaciers and perpetual snow", "#a6e6cc"),
    (411, "Inland marshes", "#a6a6ff"),
    (412, "Peat bogs", "#4d4dff"),
    (421, "Salt marshes", "#ccccff"),
    (422, "Salines", "#e6e6ff"),
    (423, "Intertidal flats", "#a6a6e6"),
    (511, "Water courses", "#00ccf2"),
    (512, "Water bodies", "#80f2e6"),
    (521, "Coastal lagoons", "#00ffa6"),
    (522, "Estuaries", "#a6ffe6"),
    (523, "Sea and ocean", "#e6f2ff"),
)

_EUCROPMAP: tuple[tuple[int, str, str | None], ...] = (
    (100, "Artificial land", None),
    (211, "Common wheat", "Cereals"),
    (212, "Durum wheat", "Cereals"),
    (213, "Barley", "Cereals"),
    (214, "Rye", "Cereals"),
    (215, "Oats", "Cereals"),
    (216, "Maize", "Cereals"),
    (217, "Rice", "Cereals"),
    (218, "Triticale", "Cereals"),
    (219, "Other cereals", "Cereals"),
    (221, "Potatoes", "Root crops"),
    (222, "Sugar beet", "Root crops"),
    (223, "Other root crops", "Root crops"),
    (230, "Other non-permanent industrial crops", "Industrial crops"),
    (231, "Sunflower", "Industrial crops"),
    (232, "Rape and turnip rape", "Industrial crops"),
    (233, "Soya", "Industrial crops"),
    (240, "Dry pulses, vegetables and flowers", None),
    (250, "Fodder crops", None),
    (290, "Bare arable land", None),
    (300, "Woodland and shrubland", None),
    (500, "Grassland", None),
)

_CDL: tuple[_Row, ...] = (
    (1, "Corn", "#ffd400", "Cropland"),
    (2, "Cotton", "#ff2626", "Cropland"),
    (3, "Rice", "#00a9e6", "Cropland"),
    (4, "Sorghum", "#ff9e0f", "Cropland"),
    (5, "Soybeans", "#267300", "Cropland"),
    (6, "Sunflower", "#ffff00", "Cropland"),
    (10, "Peanuts", "#70a800", "Cropland"),
    (11, "Tobacco", "#00af4d", "Cropland"),
    (12, "Sweet corn", "#e0a60f", "Cropland"),
    (21, "Barley", "#e2007f", "Cropland"),
    (22, "Durum wheat", "#8a6453", "Cropland"),
    (23, "Spring wheat", "#d9b56c", "Cropland"),
    (24, "Winter wheat", "#a87000", "Cropland"),
    (26, "Double crop winter wheat and soybeans", "#737300", "Cropland"),
    (27, "Rye", "#ae017e", "Cropland"),
    (28, "Oats", "#a15889", "Cropland"),
    (29, "Millet", "#73004c", "Cropland"),
    (31, "Canola", "#d1ff00", "Cropland"),
    (33, "Safflower", "#d6d600", "Cropland"),
    (36, "Alfalfa", "#ffa8e3", "Cropland"),
    (37, "Other hay", "#a5f58d", "Cropland"),
    (41, "Sugarbeets", "#a900e6", "Cropland"),
    (42, "Dry beans", "#a80000", "Cropland"),
    (43, "Potatoes", "#732600", "Cropland"),
    (45, "Sugarcane", "#b380ff", "Cropland"),
    (53, "Peas", "#55ff00", "Cropland"),
    (54, "Tomatoes", "#f5a27a", "Cropland"),
    (61, "Fallow", "#bfbf7a", "Cropland"),
    (69, "Grapes", "#704489", "Cropland"),
    (75, "Almonds", "#00a884", "Cropland"),
    (111, "Open water", "#4d70a3", "Water"),
    (121, "Developed, open space", "#9c9c9c", "Developed"),
    (122, "Developed, low intensity", "#9c9c9c", "Developed"),
    (123, "Developed, medium intensity", "#9c9c9c", "Developed"),
    (124, "Developed, high intensity", "#9c9c9c", "Developed"),
    (131, "Barren", "#ccbfa3", None),
    (141, "Deciduous forest", "#94cc94", "Forest"),
    (142, "Evergreen forest", "#94cc94", "Forest"),
    (143, "Mixed forest", "#94cc94", "Forest"),
    (152, "Shrubland", "#c7d69e", None),
    (176, "Grassland and pasture", "#e8ffbf", None),
    (190, "Woody wetlands", "#80b3b3", "Wetlands"),
    (195, "Herbaceous wetlands", "#80b3b3", "Wetlands"),
)


def legend(name: str) -> ClassScheme:
    """Return the legend of a public map as a class scheme.

    Values count from 1; the numbers of the map are the codes of a class (CORINE: its three digits and the
    number of the raster alike), and its broader class is its parent.

    >>> wheat = legend("eucropmap").lookup()["211"]
    >>> legend("eucropmap").codes_of(wheat)
    (211,)

    Args:
        name: ``worldcover``, ``corine``, ``eucropmap`` or ``cdl``.

    Raises:
        InputError: If there is no such legend.
    """
    if name not in LEGENDS:
        raise InputError("no such legend", where="labels.legend", found=name, limit=", ".join(LEGENDS))
    if name == "corine":
        return _scheme(
            [((code, i), n, c, _CORINE_LEVEL1[code // 100]) for i, (code, n, c) in enumerate(_CORINE, 1)]
        )
    if name == "eucropmap":
        colours = ClassScheme.from_names([n for _, n, _ in _EUCROPMAP]).classes
        return _scheme(
            [((code,), n, c.colour, p) for (code, n, p), c in zip(_EUCROPMAP, colours, strict=True)]
        )
    rows = _WORLDCOVER if name == "worldcover" else _CDL
    return _scheme([((code,), n, colour, parent) for code, n, colour, parent in rows])


LEGENDS = ("worldcover", "corine", "eucropmap", "cdl")
"""Names of the legends."""


def _scheme(rows: list[tuple[tuple[int, ...], str, str, str | None]]) -> ClassScheme:
    return ClassScheme(
        classes=tuple(
            LandClass(value=i, name=name, colour=colour, parent=parent, codes=codes)
            for i, (codes, name, colour, parent) in enumerate(rows, 1)
        )
    )
