"""Turned windows: against plain torch, mirrored maps, and the price of each view."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch

from engine.inference.augment import TurningLane, augmented_lane, require_opinions, views_of
from engine.inference.blend import Frame
from engine.inference.blocks import predict_array
from engine.inference.decide import Layers
from engine.inference.heads import fixed_point
from engine.inference.lane import lane_for
from engine.inference.predict import predict
from engine.models.normalise import prepare
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.head import ONE_CLASS, Augment
from engine.values.lattice import Lattice
from tests.inference.bundles import network, random_bundle
from tests.inference.fakes import FakeLane, evaluations, random_cube
from tests.inference.test_ensemble import cube_of

LAYERS = Layers(ONE_CLASS, (1, 2, 3, 4), ("probability", "disagreement"))

FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


def views_in_torch(augment: Augment, x: torch.Tensor) -> list[tuple[torch.Tensor, Any]]:
    """Each view of (T, C, y, x), and how its answer (K, y, x) is brought back."""
    if augment == "flips":
        return [(x.flip(f), partial(torch.flip, dims=f)) for f in FLIPS]
    turned = []
    for k in range(4):
        turned.append((x.rot90(k, (-2, -1)), partial(torch.rot90, k=-k, dims=(-2, -1))))
        turned.append((x.mT.rot90(k, (-2, -1)), lambda p, k=k: torch.rot90(p, k=-k, dims=(-2, -1)).mT))
    return turned


@pytest.mark.parametrize("augment", ["flips", "turns"])
def test_views_are_those_of_plain_torch(augment: Augment, tmp_path: Path) -> None:
    bundle, net = random_bundle(tmp_path / "b"), network()
    window = random_cube(3, Box(0, 0, 32, 32))[:, :3]
    views = views_in_torch(augment, torch.from_numpy(window.astype(np.int32)))
    fixed = []
    with torch.inference_mode():
        for view, back in views:
            x, valid = prepare(view[None], bundle.normalisation)
            fixed.append(back(fixed_point(net(x, valid)[0], bundle.temperature)).numpy())
    n, p = len(views), np.stack(fixed).astype(np.int64)
    mean = (2 * p.sum(axis=0) + n) // (2 * n)
    apart = np.abs(p - p.mean(axis=0)).sum(axis=1).mean(axis=0) / 2
    lane = augmented_lane(bundle, "cpu", (), augment, disagreement=True)
    before = lane_for(bundle).evaluations
    found = lane.run(window[None])
    assert lane_for(bundle).evaluations - before == n == {"flips": 4, "turns": 8}[augment]
    assert (found.shape, found.dtype) == ((1, 5, 32, 32), np.int32)
    np.testing.assert_allclose(found[0, :4], mean, atol=2)  # folded batch norms: the last bits differ
    np.testing.assert_allclose(found[0, 4], apart, atol=3)
    assert found[0, 4].max() > 1000


def fake(augment: Augment, log: str) -> TurningLane:
    from engine.inference.augment import _VIEWS

    return TurningLane(FakeLane(log), _VIEWS[augment], ONE_CLASS, disagreement=True)


def mapped(values: np.ndarray, augment: Augment, log: Path) -> np.ndarray:
    """Map a cube that lies symmetrically on the lattice, in three blocks."""
    box = Box(
        0, 0, 44, 44
    )  # windows of 16 at 0, 12, 24 and 28 + 16: the mirror image of the lattice is itself
    frame = Frame(box, box, Lattice(16, 9))
    array = da.from_array(values, chunks=(2, 3, 20, 31))
    return np.asarray(predict_array(array, frame, partial(fake, augment, str(log)), LAYERS).compute())


@pytest.mark.parametrize("augment", ["flips", "turns"])
def test_a_mirrored_cube_gives_the_mirrored_map(augment: Augment, tmp_path: Path) -> None:
    values = random_cube(5, Box(0, 0, 44, 44))
    found = mapped(values, augment, tmp_path / "log")
    images = [lambda a: a[..., ::-1], lambda a: a[..., ::-1, :]]
    if augment == "turns":
        images += [lambda a: np.rot90(a, 1, (-2, -1)), lambda a: a.swapaxes(-1, -2)]
    for image in images:
        np.testing.assert_array_equal(mapped(image(values), augment, tmp_path / "log"), image(found))
    plain = mapped(values, "none", tmp_path / "plain")
    assert (plain[0] != found[0]).mean() > 0.05, "the network itself is not symmetric"
    assert (found[-1] > 0).any()
    assert set(np.unique(plain[-1])) == {0, 255}, "one view agrees with itself"


def test_each_view_is_evaluated_once(tmp_path: Path) -> None:
    values = random_cube(5, Box(0, 0, 44, 44))
    for augment in ("none", "flips", "turns"):
        mapped(values, augment, tmp_path / augment)
    once = evaluations(tmp_path / "none")
    assert (evaluations(tmp_path / "flips"), evaluations(tmp_path / "turns")) == (4 * once, 8 * once)


def test_a_map_with_turned_windows_is_lazy_and_pickles(tmp_path: Path) -> None:
    bundle, box = random_bundle(tmp_path / "b"), Box(0, 0, 40, 36)
    cube = cube_of(random_cube(1, box)[:, :3], bundle.spec.bands, box)
    lazy = predict(cube, bundle, layers=("disagreement", "entropy"), augment="flips")
    found = pickle.loads(pickle.dumps(lazy)).compute(scheduler="sync")
    plain = predict(cube, bundle, layers=("entropy",)).compute(scheduler="sync")
    assert {"label", "confidence", "disagreement", "entropy"} <= set(found.data_vars)
    valid = plain.label.values > 0
    np.testing.assert_array_equal(found.label.values > 0, valid)
    assert (found.disagreement.values[~valid] == 255).all()
    assert found.disagreement.values[valid].max() <= 250
    assert (found.confidence.values != plain.confidence.values).any()


def test_a_pixel_wise_network_has_one_view() -> None:
    class Bundle:
        pixelwise = True

    assert len(views_of(Bundle(), "turns")) == 1  # type: ignore[arg-type]
    require_opinions(("disagreement",), 1, 4)
    require_opinions(("disagreement",), 2, 1)
    with pytest.raises(InputError, match="cannot disagree"):
        require_opinions(("disagreement",), 1, 1)
