"""The layer `unfamiliar`: Mahalanobis distances by scipy, the same however it is cut, and strangers found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import mahalanobis

from engine.inference.augment import TurningLane, views_of
from engine.inference.bundle import Bundle, load_bundle, save_bundle
from engine.inference.check import check_bundle
from engine.inference.ensemble import create_ensemble
from engine.inference.lane import Lane
from engine.inference.predict import predict
from engine.inference.unfamiliar import FILE, Familiarity, FamiliarLane, read_familiarity
from engine.models.normalise import prepare
from engine.models.registry import build
from engine.values.calibration import VectorScale
from engine.values.errors import DataError, InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from tests.inference.bundles import FIELDS, network
from tests.inference.fakes import random_cube
from training.calibration.familiarity import fit_familiarity, shrunk_covariance

BOX = Box(0, 0, 70, 90)


def _familiarity(features: int, seed: int = 0) -> Familiarity:
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=600)
    known = rng.normal(size=(600, features)) + 2 * rng.normal(size=(3, features))[truth]
    return fit_familiarity(known, truth, known[:200])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    fields = replace(FIELDS, familiarity=_familiarity(8), lattice=Lattice(32, 8, "hann"))
    return save_bundle(tmp_path_factory.mktemp("known"), network(), "unet", fields)


def _cube(values: np.ndarray, chunk: int) -> xr.Dataset:
    grid = Grid.make("EPSG:32632", 10.0)
    times = np.array(["2023-03-15", "2023-04-15"], "datetime64[ns]")
    coords = {**georef_coords(grid, BOX), "band": list(FIELDS.spec.bands), "time": times}
    array = da.from_array(values, chunks=(1, 3, chunk, chunk))
    return xr.Dataset({"reflectance": (("time", "band", "y", "x"), array)}, coords=coords)


def test_distances_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(5, 5))
    truth = rng.integers(3, size=20_000)
    centres = 3 * rng.normal(size=(3, 5))
    known = rng.normal(size=(20_000, 5)) @ mixing + centres[truth]
    found = fit_familiarity(known, truth, known)
    inverse = np.linalg.inv(np.cov((known - centres[truth]).T))
    queries = 4 * rng.normal(size=(40, 5))
    expected = [min(mahalanobis(q, c, inverse) for c in centres) for q in queries]
    np.testing.assert_allclose(found.distances(queries), expected, rtol=0.03)
    assert np.mean(found.distances(known) > found.distance) == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize(("items", "features"), [(12, 20), (60, 8), (2000, 3)])
def test_the_covariance_is_shrunk_as_scikit_learn_does(items: int, features: int) -> None:
    from sklearn.covariance import ledoit_wolf

    rng = np.random.default_rng(items)
    drawn = rng.normal(size=(items, features)) @ rng.normal(size=(features, features))
    np.testing.assert_allclose(
        shrunk_covariance(drawn), ledoit_wolf(drawn, assume_centered=True)[0], rtol=1e-10
    )


def test_a_feature_that_never_varied_tells_when_it_does() -> None:
    rng = np.random.default_rng(2)
    known = np.concatenate([rng.normal(size=(500, 3)), np.zeros((500, 1))], axis=1)
    found = fit_familiarity(known, np.zeros(500, int), known)
    strange = found.distances(np.array([[0, 0, 0, 1.0], [0, 0, 0, 0]]))
    assert np.isfinite(strange).all()
    assert strange[0] > found.distance > strange[1]


def test_too_few_items_and_dead_features_are_refused() -> None:
    with pytest.raises(InputError, match="too few items"):
        fit_familiarity(np.ones((3, 2)), np.array([0, 1, 2]), np.ones((3, 2)))
    with pytest.raises(InputError, match="do not vary"):
        fit_familiarity(np.ones((30, 2)), np.zeros(30, int), np.ones((3, 2)))


def test_the_lane_says_what_float64_says_and_answers_as_before(bundle: Bundle) -> None:
    values = np.random.default_rng(3).integers(1, 5000, (3, 2, 3, 32, 32)).astype(np.uint16)
    lane = Lane(bundle)
    out_BKHW = FamiliarLane(lane, lane).run(values)
    np.testing.assert_array_equal(out_BKHW[:, :4], lane.run(values))
    with torch.inference_mode():
        x_BTCHW, valid_BTHW = prepare(torch.from_numpy(values), bundle.normalisation)
        features_BFHW = network().features(x_BTCHW, valid_BTHW).numpy()  # type: ignore[operator]
    known = read_familiarity(bundle)
    distance = known.distances(features_BFHW.transpose(0, 2, 3, 1).reshape(-1, 8))
    expected = (distance / (distance + known.distance)).reshape(3, 32, 32)
    np.testing.assert_allclose(out_BKHW[:, 4] / 65535, expected, atol=2e-4)
    alone = np.concatenate([FamiliarLane(lane, lane).run(v[None]) for v in values])
    np.testing.assert_array_equal(alone, out_BKHW)


def test_a_map_has_it_whatever_the_chunks_and_beside_other_layers(bundle: Bundle) -> None:
    values = random_cube(4, BOX)
    maps = [
        predict(_cube(values, chunk), bundle, layers=["disagreement", "unfamiliar"], augment="flips").load()
        for chunk in (90, 37)
    ]
    assert maps[0]["unfamiliar"].dtype == np.uint8
    np.testing.assert_array_equal(maps[0]["unfamiliar"], maps[1]["unfamiliar"])
    np.testing.assert_array_equal((maps[0]["unfamiliar"] == 255), (maps[0]["label"] == 0))
    without = predict(_cube(values, 90), bundle, layers=["disagreement"], augment="flips").load()
    for name in ("label", "confidence", "disagreement"):
        np.testing.assert_array_equal(maps[0][name], without[name])
    shown = maps[0]["unfamiliar"].values
    assert len(np.unique(shown[shown < 255])) > 20


def test_a_pixel_of_a_map_without_windows_is_the_lanes_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build("mlp", {"n_dates": 2, "n_bands": 3, "n_classes": 4, "width": 12}).eval()
    fields = replace(FIELDS, lattice=Lattice(1, 0), familiarity=_familiarity(12))
    bundle = save_bundle(tmp_path, net, "mlp", fields)
    values = random_cube(5, BOX, holes=False)
    shown = predict(_cube(values, 40), bundle, layers=["unfamiliar"])["unfamiliar"].values
    with torch.inference_mode():
        x_BTCHW, valid_BTHW = prepare(torch.from_numpy(values)[None], bundle.normalisation)
        days_T = torch.tensor([74.0, 105.0])
        features_FYX = net.features(x_BTCHW, valid_BTHW, days_T)[0].numpy()  # type: ignore[operator]
    distance = read_familiarity(bundle).distances(features_FYX.reshape(12, -1).T)
    expected = 250 * distance / (distance + read_familiarity(bundle).distance)
    np.testing.assert_allclose(shown.ravel(), expected, atol=0.51)


def test_an_ensemble_gives_the_weighted_mean(bundle: Bundle, tmp_path: Path) -> None:
    torch.manual_seed(9)
    other = save_bundle(
        tmp_path / "other", network(width=4), "unet", replace(FIELDS, familiarity=_familiarity(4, seed=7))
    )
    both = create_ensemble(tmp_path / "both", [(bundle.path, 3), (other.path, 1)], "both")
    assert (tmp_path / "both" / "other" / FILE).is_file()
    values = random_cube(6, BOX, holes=False)
    parts = [
        predict(_cube(values, 50), b, layers=["unfamiliar"])["unfamiliar"].values.astype(float)
        for b in (bundle, other)
    ]
    found = predict(_cube(values, 33), both, layers=["unfamiliar", "disagreement"]).load()
    np.testing.assert_allclose(found["unfamiliar"], (3 * parts[0] + parts[1]) / 4, atol=1.0)
    plain = predict(_cube(values, 33), both, layers=["disagreement"]).load()
    np.testing.assert_array_equal(found["disagreement"], plain["disagreement"])
    np.testing.assert_array_equal(found["label"], plain["label"])


def test_the_digest_knows_the_statistics_and_a_damaged_file_is_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    plain = save_bundle(tmp_path / "b", network(), "unet", replace(FIELDS, lattice=bundle.lattice))
    assert plain.digest() != bundle.digest()
    assert plain.weights_sha256 == bundle.weights_sha256
    again = save_bundle(
        tmp_path / "c",
        network(),
        "unet",
        replace(FIELDS, lattice=bundle.lattice, familiarity=_familiarity(8)),
    )
    assert again.digest() == bundle.digest() == load_bundle(bundle.path).digest()
    told = {f.name: f.passed for f in check_bundle(again)}
    assert told["familiar"] is True
    (tmp_path / "c" / FILE).write_bytes(b"other")
    assert not next(f for f in check_bundle(again) if f.name == "familiar").passed
    with pytest.raises(DataError, match="not those that the manifest names"):
        read_familiarity(again)
    (tmp_path / "c" / FILE).unlink()
    with pytest.raises(DataError, match="cannot read"):
        read_familiarity(again)
    save_bundle(bundle.path.parent / "replaced", network(), "unet", FIELDS)
    with pytest.raises(InputError, match="cannot tell what is unfamiliar"):
        predict(_cube(random_cube(1, BOX), 90), plain, layers=["unfamiliar"])


def test_a_bundle_written_over_an_older_one_leaves_no_statistics_behind(tmp_path: Path) -> None:
    save_bundle(tmp_path, network(), "unet", replace(FIELDS, familiarity=_familiarity(8)))
    assert (tmp_path / FILE).exists()
    assert save_bundle(tmp_path, network(), "unet", FIELDS).familiar is None
    assert not (tmp_path / FILE).exists()


def test_vector_scaling_comes_before_the_softmax(tmp_path: Path) -> None:
    values = np.random.default_rng(8).integers(1, 5000, (2, 2, 3, 32, 32)).astype(np.uint16)
    vector = VectorScale(scale=(2.0, 0.5, 1.0, 1.5), shift=(0.3, -0.3, 0.0, 0.0))
    plain = save_bundle(tmp_path / "a", network(), "unet", replace(FIELDS, temperature=1.0))
    mended = save_bundle(tmp_path / "b", network(), "unet", replace(FIELDS, temperature=1.0, vector=vector))
    assert plain.digest() != mended.digest()
    lane = Lane(plain)
    logits_BKHW = lane.outputs(*lane.prepared(values)).numpy()
    moved_BKHW = logits_BKHW * np.reshape(vector.scale, (-1, 1, 1)) + np.reshape(vector.shift, (-1, 1, 1))
    expected = np.exp(moved_BKHW) / np.exp(moved_BKHW).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Lane(mended).run(values) / 65535, expected, atol=2e-5)
    with pytest.raises(ValueError, match="one scale and shift per class"):
        VectorScale(scale=(1.0,), shift=(0.0, 0.0))
    with pytest.raises(ValueError, match="must be positive"):
        VectorScale(scale=(0.0,), shift=(0.0,))


def test_views_do_not_change_what_is_unfamiliar(bundle: Bundle) -> None:
    values = np.random.default_rng(3).integers(1, 5000, (1, 2, 3, 32, 32)).astype(np.uint16)
    lane = Lane(bundle)
    turning = TurningLane(lane, views_of(bundle, "turns"), bundle.head)
    np.testing.assert_array_equal(
        FamiliarLane(turning, lane).run(values)[:, -1], FamiliarLane(lane, lane).run(values)[:, -1]
    )
