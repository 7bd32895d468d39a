"""What a step needs for its work is what it says."""

from __future__ import annotations

import tracemalloc

import geopandas as gpd
import pytest
import shapely

from engine.refine.context import ContextConfig
from engine.refine.fill import FillConfig
from engine.refine.filters import MajorityConfig
from engine.refine.parcels import ParcelsConfig
from engine.refine.rules import RulesConfig
from engine.refine.smooth import BayesConfig, BilateralConfig, GaussianConfig
from engine.values.grid import Box
from tests.refine.test_smooth import a_map
from tests.refine.tilings import AROUND, GRID, source_of

CONFIGS = [
    MajorityConfig(),
    ContextConfig.model_validate({"class": 2, "needs": 1, "within_px": 3, "else": 3}),
    ContextConfig.model_validate({"class": 2, "needs": 1, "within_px": 3, "shape": "square", "else": None}),
    RulesConfig.model_validate({"rules": [{"class": 2, "below": 0.5, "into": None}]}),
    FillConfig(),
    GaussianConfig(),
    BilateralConfig(),
    BayesConfig(),
]


@pytest.mark.parametrize("config", [*CONFIGS, None], ids=lambda c: c.step if c else "parcels")
def test_work_is_within_what_the_step_says(config, tmp_path) -> None:
    layers = {name: array for name, array in a_map(1, (600, 600), gaps=0.3).items() if name != "observations"}
    read, box = source_of(layers)
    if config is None:
        left, bottom, _, _ = GRID.bounds_of_box(box)
        fields = [shapely.box(left, bottom, left + 40 * k, bottom + 30 * k) for k in range(1, 90, 4)]
        gpd.GeoDataFrame(geometry=fields, crs=GRID.crs).to_file(tmp_path / "fields.gpkg")
        config = ParcelsConfig(file=tmp_path / "fields.gpkg", fill=True)
    step = config.made(AROUND)
    step.apply(read, Box(box.y1 - 20, box.x0, box.y1, box.x0 + 20))  # compiles
    given = {}

    def source(asked: Box):
        given.update(read(asked))
        return given

    tracemalloc.start()
    try:
        step.apply(source, box)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    read_px = sum(array.size for array in given.values())
    gives_px = sum(array.size for array in layers.values())
    allowed = read_px + gives_px + step.work_bytes_px * given["label"].size
    assert peak <= 1.1 * allowed + 300_000  # and the tables of rules, parcels and classes
