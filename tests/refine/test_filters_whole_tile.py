"""The filters over a real tile of 10980 x 10980 pixels: six tilings, one answer."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from engine.refine.context import ContextConfig
from engine.refine.fill import FillConfig
from engine.refine.filters import MajorityConfig
from engine.values.grid import Box
from tests.refine.tilings import AROUND

SIDE = 10980
TILES_PX = (10980, 512, 777, 1024, 3000, 5490, 2048)
STEPS = {
    "majority": MajorityConfig(within_m=50),
    "context": ContextConfig.model_validate(
        {"class": [2, 3], "needs": 4, "within_m": 500, "share": 0.02, "shape": "square", "else": 1}
    ),
    "near": ContextConfig.model_validate({"class": [2, 3], "needs": 4, "within_m": 200, "else": None}),
    "fill": FillConfig(within_px=12, gaps="between"),
}


@pytest.fixture(scope="module")
def label(real_data):
    with rasterio.open(real_data / "full_tile" / "cloudmask_T19GBQ_20170725.tif") as file:
        found = file.read(1) + np.uint8(1)
    found[found == 3] = np.where(np.arange((found == 3).sum()) % 5, 3, 0)  # thin cloud: some of it is a gap
    found.flags.writeable = False
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", STEPS)
def test_a_whole_tile_is_the_same_for_any_tiling(name, label) -> None:
    step, whole = STEPS[name].made(AROUND), Box(0, 0, SIDE, SIDE)

    def read(box: Box):
        out = np.zeros(box.shape_yx, np.uint8)
        common = box & whole
        out[common.slices_in(box)] = label[common.slices_in(whole)]
        return {"label": out}

    first = step.apply(read, whole)["label"]
    assert (first != label).sum() > 1000
    for side in TILES_PX[1:]:
        for tile in whole.blocks(side):
            np.testing.assert_array_equal(step.apply(read, tile)["label"], first[tile.slices_in(whole)])


@pytest.mark.long
def test_a_whole_tile_is_filtered_as_scipy_counts(label) -> None:
    step, whole = MajorityConfig().made(AROUND), Box(0, 0, SIDE, SIDE)
    ours = step.apply(lambda box: {"label": np.pad(label, 1)}, whole)["label"]
    best, most, own = label.copy(), np.zeros(label.shape, np.uint8), np.zeros(label.shape, np.uint8)
    for k in range(1, 5):
        votes = (label == k).astype(np.uint8)
        for axis in (0, 1):
            votes = ndimage.correlate1d(votes, [1, 1, 1], axis, mode="constant")
        own = np.where(label == k, votes, own)
        best, most = np.where(votes > most, np.uint8(k), best), np.maximum(votes, most)
    np.testing.assert_array_equal(ours, np.where((own == most) | (label == 0), label, best))
