"""All filters in a row are the same for any tiling."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from pydantic import ValidationError

from engine.refine.chain import CHANGED, RefineSpec
from engine.refine.context import ContextConfig
from engine.refine.fill import FillConfig
from engine.refine.filters import MajorityConfig
from engine.refine.parcels import ParcelsConfig
from engine.refine.rules import RulesConfig
from engine.refine.smooth import BayesConfig, BilateralConfig, GaussianConfig
from tests.refine.test_smooth import a_map
from tests.refine.tilings import AROUND, GRID, assert_untiled, source_of


def test_all_steps_in_a_row_know_no_tiles(tmp_path) -> None:
    layers = a_map(12, (40, 46))
    _, box = source_of(layers)
    left, bottom, _, _ = GRID.bounds_of_box(box)
    fields = [shapely.Point(left + 13 * k, bottom + 9 * k).buffer(10 + 7 * (k % 6)) for k in range(1, 40)]
    gpd.GeoDataFrame(geometry=fields, crs=GRID.crs).to_file(tmp_path / "fields.gpkg")
    configs = [
        GaussianConfig(sigma_px=0.4),
        BilateralConfig(similar=0.1),
        BayesConfig(smoothness=1),
        RulesConfig.model_validate({"rules": [{"below": 0.35, "into": None}]}),
        FillConfig(within_px=3),
        ContextConfig.model_validate({"class": 2, "needs": 1, "within_px": 3, "else": 3}),
        MajorityConfig(),
        ParcelsConfig(file=tmp_path / "fields.gpkg", largest_m=150),
    ]
    chain = RefineSpec(steps=tuple(configs)).made(AROUND)
    given = {**layers, CHANGED: np.zeros_like(layers["label"])}
    out = assert_untiled(chain, given, ((64, 64), (64, 11), (17, 64), (23, 19), (12, 30), (40, 7)))
    assert set(np.unique(out[CHANGED])) >= {0, 1, 5, 6, 7, 8}
    assert (out[CHANGED][out["label"] != layers["label"]] > 0).all()


def test_smoothing_that_would_undo_a_step_is_refused() -> None:
    steps = [{"step": "gaussian"}, {"step": "majority"}, {"step": "bayes"}]
    with pytest.raises(ValidationError, match=r"bayes decides classes anew.*undo majority: put it first"):
        RefineSpec.model_validate({"steps": steps})
    ordered = RefineSpec.model_validate({"steps": [steps[0], steps[2], steps[1]]})
    assert ordered.reads == ("label", "confidence", "probability")
