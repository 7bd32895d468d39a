"""Classifiers of scikit-learn: the graph answers as the estimator does, up to maps of whole cubes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import onnxruntime
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from engine.inference.bundle import load_bundle
from engine.inference.predict import predict
from engine.inference.sklearn_onnx import bundle_sklearn, largest_float32, to_onnx
from engine.models.normalise import Standard
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from tests.inference.bundles import FIELDS

PLAIN = replace(FIELDS, normalisation=Standard(mean=(0.0,) * 3, std=(1.0,) * 3), temperature=1.0)

ESTIMATORS = [
    RandomForestClassifier(12, random_state=0),
    ExtraTreesClassifier(8, random_state=0),
    DecisionTreeClassifier(random_state=0),
    HistGradientBoostingClassifier(max_iter=8),
    LogisticRegression(max_iter=2000, tol=1e-2),
    MLPClassifier((12, 8), activation="relu", max_iter=8, random_state=0),
    MLPClassifier((9,), activation="logistic", max_iter=8, random_state=0),
    make_pipeline(StandardScaler(), RandomForestClassifier(12, random_state=0)),
    make_pipeline(StandardScaler(with_mean=False), HistGradientBoostingClassifier(max_iter=8)),
    make_pipeline(StandardScaler(), LogisticRegression()),
    make_pipeline(MinMaxScaler(), MLPClassifier((9,), activation="tanh", max_iter=8, random_state=0)),
    make_pipeline(MinMaxScaler(), "passthrough", DecisionTreeClassifier(random_state=0)),
]


def samples(n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers close together, so that thresholds fall on values that pixels have."""
    rng = np.random.default_rng(seed)
    x = rng.integers(900, 1000, (300, 6)).astype(float)
    score = x[:, 0] + 2 * x[:, 3] - x[:, 5] + rng.normal(0, 20, 300)
    return x, np.digitize(score, np.quantile(score, np.linspace(0, 1, n_classes + 1)[1:-1])) + 1


def fitted(estimator: Any, n_classes: int) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations are enough here
        return estimator.fit(*samples(n_classes))


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: str(e).replace("\n", "")[:60])
def test_the_graph_answers_as_the_estimator(estimator: Any, n_classes: int) -> None:
    model = fitted(estimator, n_classes)
    rows = np.random.default_rng(1).integers(890, 1010, (4096, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"features": rows})
    expected = model.predict_proba(rows.astype(float))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    first, second = np.sort(expected, axis=1)[:, [-1, -2]].T
    clear = first - second > 1e-6
    np.testing.assert_array_equal(found.argmax(1)[clear], expected.argmax(1)[clear])


def test_a_map_is_the_estimators_own_answer_on_each_pixel(tmp_path: Path) -> None:
    model = fitted(make_pipeline(StandardScaler(), RandomForestClassifier(12, random_state=0)), 4)
    bundle = bundle_sklearn(tmp_path / "b", model, PLAIN)
    assert load_bundle(tmp_path / "b") == bundle
    assert (bundle.pixelwise, bundle.layout.order) == (True, "NF")
    rng = np.random.default_rng(2)
    values = rng.integers(890, 1010, (2, 3, 70, 90)).astype(np.uint16)
    values[:, :, 10:20, 30:50] = 0  # no data at all
    values[1, 2, 40:, :30] = 0  # one date hidden
    for chunks in ((70, 90), (33, 41)):
        cube = _cube(da.from_array(values, chunks=(2, 3, *chunks)))
        out = predict(cube, bundle, layers=("probability",)).compute(scheduler="synchronous")
        shown = np.where((values == 0).any(axis=1, keepdims=True), 0, values)
        rows = shown.reshape(6, -1).T.astype(float)
        expected = model.predict_proba(rows).T.reshape(4, 70, 90)
        valid = shown.any(axis=(0, 1))
        first, second = np.sort(expected, axis=0)[[-1, -2]]
        clear = valid & (first - second > 1e-4)
        np.testing.assert_array_equal(out.label.values[clear], expected.argmax(0)[clear] + 1)
        np.testing.assert_array_equal(out.label.values == 0, ~valid)
        off = out.probability.values / 250 - expected
        assert np.abs(off[:, valid]).max() <= 0.5 / 250 + 1e-5


def _cube(values: da.Array) -> xr.Dataset:
    box = Box(0, 0, *values.shape[2:])
    return xr.Dataset(
        {"reflectance": (("time", "band", "y", "x"), values)},
        coords={
            **georef_coords(Grid.make("EPSG:32633", 10), box),
            "time": np.array(["2023-03-01", "2023-04-01"], "datetime64[ns]"),
            "band": ["blue", "green", "nir"],
        },
    )


@settings(max_examples=200)
@given(
    threshold=st.floats(-1e6, 1e6),
    scale=st.floats(1e-3, 1e4),
    shift=st.floats(-1e4, 1e4),
    rounds=st.booleans(),
    step=st.integers(-60, 60),
)
def test_the_threshold_asks_the_same_question_of_every_float32(
    threshold: float, scale: float, shift: float, rounds: bool, step: int
) -> None:
    def scaled(values: np.ndarray, feature: np.ndarray) -> np.ndarray:
        return (values - shift) / scale

    one = np.array([0], np.intp)
    t = largest_float32(one, np.array([threshold]), scaled, rounds=rounds)
    x = (t.view(np.int32) + step).view(np.float32) if abs(t[0]) > 1e-30 else t + np.float32(step)
    theirs = scaled(x.astype(np.float64), one)
    theirs = theirs.astype(np.float32) if rounds else theirs
    assert (x <= t)[0] == (theirs <= np.float64(threshold))[0], "a plain number would be rounded to float32"


@pytest.mark.parametrize(
    ("estimator", "named"),
    [
        (GradientBoostingClassifier(n_estimators=2), "GradientBoostingClassifier"),
        (make_pipeline(PolynomialFeatures(1), LogisticRegression(tol=1)), "PolynomialFeatures"),
    ],
)
def test_an_unknown_estimator_is_refused_by_name(estimator: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        to_onnx(fitted(estimator, 4))


def test_classes_in_another_order_and_other_features_are_refused(tmp_path: Path) -> None:
    model = fitted(DecisionTreeClassifier(), 4)
    turned = ClassScheme(classes=tuple(reversed(FIELDS.classes.classes)))
    with pytest.raises(InputError, match="order"):
        bundle_sklearn(tmp_path / "b", model, replace(PLAIN, classes=turned))
    with pytest.raises(InputError, match="number of features"):
        bundle_sklearn(tmp_path / "b", model, replace(PLAIN, n_dates=3))
    with pytest.raises(InputError, match="not fitted"):
        bundle_sklearn(tmp_path / "b", DecisionTreeClassifier(), PLAIN)
    assert not (tmp_path / "b").exists()


def test_a_graph_that_answers_otherwise_is_not_written(tmp_path: Path) -> None:
    class Stranger(DecisionTreeClassifier):
        """Of a version that is not known here: same numbers, other answers."""

        def predict_proba(self, X: Any, check_input: bool = True) -> Any:
            return super().predict_proba(X, check_input)[:, ::-1]

    Stranger.__name__ = "DecisionTreeClassifier"
    from engine.values.errors import DataError

    with pytest.raises(DataError, match="does not answer as the estimator"):
        bundle_sklearn(tmp_path / "b", fitted(Stranger(random_state=0), 4), PLAIN)
    assert not (tmp_path / "b").exists()
