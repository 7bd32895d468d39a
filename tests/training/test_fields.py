"""Series of fields against plain numpy; the cut of the blocks moves no bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.values.errors import InputError
from tests.training.stored import Made, cube_of, labels_of, put
from training.fields import field_series
from training.loader import CubeDataset, LoaderOptions
from training.samples import Pixels
from training.sources import source_of
from training.targets import targets_of

MADE = Made()
BOX = MADE.box.pad(-10)


def fields() -> np.ndarray:
    rng = np.random.default_rng(3)
    small = rng.permutation(14 * 18).reshape(14, 18) * 5
    found = small.repeat(10, 0).repeat(10, 1).astype(np.int32)
    found[rng.random(found.shape) < 0.3] = 0
    return found


def test_means_are_those_of_numpy_whatever_the_blocks(tmp_path: Path) -> None:
    cube = cube_of(MADE)
    stored = field_series(source_of(put(cube, MADE, tmp_path)), fields(), BOX)
    lazy = field_series(source_of(cube.chunk({"y": 50, "x": 77})), fields(), BOX)
    for name in ("ids", "values", "pixels", "valid", "place"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(lazy, name), err_msg=name)
    x_TCYX = cube["reflectance"].values[:, :, 10:-10, 10:-10].astype(np.float64)
    for i, number in enumerate(stored.ids[::9].tolist()):
        here = fields() == number
        assert stored.pixels[::9][i] == here.sum()
        np.testing.assert_allclose(
            stored.place[::9][i], np.argwhere(here).mean(0) + np.array([BOX.y0, BOX.x0])
        )
        for t in range(MADE.n_dates):
            values = x_TCYX[t][:, here]
            values = values[:, values.all(axis=0)]
            assert stored.valid[::9][i, t] == values.shape[1]
            expected = values.mean(axis=1) if values.shape[1] else np.full(3, np.nan)
            np.testing.assert_allclose(stored.values[::9][i, t], expected, rtol=1e-6)
    assert np.isnan(stored.values[:, 0]).any()  # the first date is empty on the left


def test_an_epoch_has_as_many_pixels_of_each_field() -> None:
    targets = targets_of(labels_of(MADE, known=0.7), fields=np.pad(fields(), 10))
    dataset = CubeDataset(
        source_of(cube_of(MADE)), targets, LoaderOptions(draw=Pixels(per_field=4), batch=100)
    )
    first = np.concatenate([batch.place.numpy() for batch in dataset])
    place = first - np.array([MADE.box.y0, MADE.box.x0])
    assert targets.fields is not None
    known = np.where(targets.index < targets.n_classes, targets.fields, 0)
    drawn = np.bincount(targets.fields[place[:, 0], place[:, 1]], minlength=5 * 252)
    there = np.bincount(known.ravel(), minlength=5 * 252)
    np.testing.assert_array_equal(drawn[1:], np.minimum(there, 4)[1:])
    assert len(np.unique(place, axis=0)) == len(place)
    dataset.position[0] = 1
    other = np.concatenate([batch.place.numpy() for batch in dataset])
    assert not np.array_equal(np.sort(other, axis=0), np.sort(first, axis=0))


def test_fields_that_are_not_there_are_refused() -> None:
    source = source_of(cube_of(MADE))
    with pytest.raises(InputError, match="no fields over the cube"):
        field_series(source, np.zeros(BOX.shape_yx, np.int32), BOX)
    with pytest.raises(InputError, match="no fields over the cube"):
        field_series(source, fields(), BOX.pad(11))
    plain = CubeDataset(source, targets_of(labels_of(MADE)), LoaderOptions(draw=Pixels(per_field=4)))
    with pytest.raises(InputError, match="need the fields"):
        len(plain)
    with pytest.raises(ValueError, match="leave out per_epoch"):
        Pixels(per_field=3, per_epoch=9)
