"""Probability smoothing against scipy and against loops over pixels, for any tiling."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import xarray as xr
from pydantic import ValidationError
from scipy import ndimage

from engine.refine.around import Around
from engine.refine.smooth import (
    BayesConfig,
    BilateralConfig,
    GaussianConfig,
    gaussian_weights,
    logits,
    similar_weights,
)
from engine.refine.windows import Window
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from tests.refine.tilings import AROUND, GRID, TILINGS, assert_untiled, layers_of, patchy, source_of

K = len(AROUND.scheme.values)


def a_map(seed: int, shape_yx=(34, 40), gaps=0.1):
    """Return layers whose labels follow from noisy probabilities in patches; a filled and a blanked pixel too."""
    rng = np.random.default_rng(seed)
    truth = patchy(seed, shape_yx, gaps=0)
    raw = rng.gamma(0.5, 1, (K, *shape_yx)) + 1.2 * (truth == np.arange(1, K + 1)[:, None, None])
    p = np.floor(250 * raw / raw.sum(0) + 0.5).astype(np.uint8)
    label = (p.argmax(0) + 1).astype(np.uint8)
    gap = rng.random(shape_yx) < gaps
    gap[5:9, 10:20] = True
    label[gap], p[:, gap] = 0, 255
    layers = {**layers_of(label), "confidence": p.max(0), "probability": p}
    label[3, 3], p[:, 3, 3] = 2, 255  # a class without probabilities: filled
    label[4, 4] = 0  # probabilities without a class: taken away by a rule
    return layers


def rounded(sums, total):
    """Return shares 0..250 rounded half up, in exact fractions."""
    half = Fraction(1, 2)
    return [int(Fraction(int(s), int(total)) + half) for s in sums]


def known(layers):
    return (layers["label"] != 0) & (layers["probability"][0] != 255)


def assert_decided(out, layers, sums, totals):
    """Assert that the layers are what exact sums (class, y, x) and their weights decide."""
    there = known(layers)
    assert there.any()
    assert not there.all()
    for name in ("label", "confidence", "probability"):
        np.testing.assert_array_equal(out[name][..., ~there], layers[name][..., ~there])
    for y, x in np.argwhere(there):
        best = int(np.argmax(sums[:, y, x]))
        wanted = rounded(sums[:, y, x], totals[y, x])
        assert out["label"][y, x] == best + 1
        assert out["probability"][:, y, x].tolist() == wanted
        assert out["confidence"][y, x] == wanted[best]
    assert (out["label"] != layers["label"]).mean() > 0.02


@pytest.mark.parametrize("given", [{}, {"sigma_m": 22}], ids=["usual", "22 m"])
def test_gaussian_sums_are_those_of_scipy(given) -> None:
    layers = a_map(1)
    step = GaussianConfig(**given).made(AROUND)
    out = assert_untiled(step, layers)
    kernel = np.outer(step.down, step.across)
    there = known(layers)
    planes = np.where(there, layers["probability"], 0).astype(np.int64)
    sums = np.array([ndimage.correlate(plane, kernel, mode="constant") for plane in planes])
    assert_decided(out, layers, sums, ndimage.correlate(there.astype(np.int64), kernel, mode="constant"))


def test_gaussian_weights_are_the_bell_in_whole_numbers() -> None:
    for sigma in (0.3, 1, 2.5, 10, 25):
        weights = np.array(gaussian_weights(sigma))
        d = np.arange(len(weights)) - len(weights) // 2
        bell = np.exp(-(d**2) / (2 * sigma**2))
        np.testing.assert_allclose(weights / 2048, bell / bell.sum(), atol=0.01)
        assert 250 * int(weights.sum()) ** 2 < 2**31
        assert (weights == weights[::-1]).all()


def test_bilateral_sums_are_those_of_a_loop() -> None:
    layers = a_map(2, (20, 24))
    step = BilateralConfig(sigma_px=1.5, similar=0.4).made(AROUND)
    out = assert_untiled(step, layers, TILINGS[:6])
    there, p = known(layers), layers["probability"].astype(np.int64)
    sums, totals = np.zeros(p.shape, np.int64), np.zeros(there.shape, np.int64)
    table = similar_weights(0.4)
    for y, x in np.argwhere(there):
        for v, u in np.argwhere(there):
            square = ((v - y) ** 2 + (u - x) ** 2) / 1.5**2
            if square <= 4 + 1e-9:
                near = round(4096 * np.exp(-square / 2))
                weight = near * int(table[((p[:, y, x] - p[:, v, u]) ** 2).sum() // 16]) // 4096
                sums[:, y, x] += weight * p[:, v, u]
                totals[y, x] += weight
    assert_decided(out, layers, sums, totals)


def test_bilateral_keeps_an_edge_that_a_gaussian_blurs() -> None:
    rng = np.random.default_rng(0)
    left = np.arange(40)[None, :] < 20
    share = np.clip(np.where(left, 0.9, 0.1) + rng.normal(0, 0.08, (30, 40)), 0, 1)
    p = np.zeros((K, 30, 40), np.uint8)
    p[0] = np.rint(250 * share)
    p[1] = 250 - p[0]
    layers = {
        "label": np.where(p[0] >= p[1], 1, 2).astype(np.uint8),
        "confidence": p.max(0),
        "probability": p,
    }
    source, box = source_of(layers)
    blurred = GaussianConfig(sigma_px=2).made(AROUND).apply(source, box)["probability"][0]
    kept = BilateralConfig(sigma_px=2, similar=0.3).made(AROUND).apply(source, box)["probability"][0]
    steps = [int(a[:, 18].astype(int).mean() - a[:, 21].astype(int).mean()) for a in (p[0], blurred, kept)]
    assert steps[2] > 0.9 * steps[0] > steps[1] * 1.3
    assert kept[5:-5, 5:15].std() < 0.5 * p[0][5:-5, 5:15].std()


@pytest.mark.parametrize(
    ("given", "window"),
    [
        ({}, Window.make("square", 3)),
        (
            {"within_px": 2, "fraction": 1.0, "smoothness": 5, "classes": {"water": 80}},
            Window.make("disc", 2),
        ),
    ],
    ids=["usual", "disc"],
)
def test_bayes_is_the_posterior_mean_of_logits(given, window) -> None:
    layers = a_map(3, (24, 28))
    config = BayesConfig(**given)
    out = assert_untiled(config.made(AROUND), layers, TILINGS[:6])
    there, p = known(layers), layers["probability"]
    share = np.clip(p, 0.25, 249.75) / 250
    x = np.log(share / (1 - share))
    noise = np.array([config.classes.get(n, config.smoothness) for n in AROUND.scheme.names])
    down, _ = window.reach_yx
    changed = 0
    for y, col in np.argwhere(there):
        rows = [
            (y + dy, u)
            for dy, half in zip(range(-down, down + 1), window.halves, strict=True)
            for u in range(col - half, col + half + 1)
            if 0 <= y + dy < 24 and 0 <= u < 28 and there[y + dy, u]
        ]
        around = np.sort(x[:, [r for r, _ in rows], [c for _, c in rows]], 1)[:, ::-1]
        high = around[:, : int(np.ceil(round(config.fraction * len(rows), 9)))]
        variance = high.var(1, ddof=1) if high.shape[1] > 1 else np.zeros(K)
        weight = variance / (variance + noise)
        posterior = weight * x[:, y, col] + (1 - weight) * high.mean(1)
        odds = 1 / (1 + np.exp(-posterior))
        wanted = 250 * odds / odds.sum()
        np.testing.assert_allclose(out["probability"][:, y, col], wanted, atol=0.501)
        first, second = np.sort(posterior)[[-1, -2]]
        if first - second > 1e-3:
            assert out["label"][y, col] == posterior.argmax() + 1
        changed += out["label"][y, col] != layers["label"][y, col]
    assert changed > 20
    for name in ("label", "confidence", "probability"):
        np.testing.assert_array_equal(out[name][..., ~there], layers[name][..., ~there])


def test_bayes_without_variance_is_the_mean_and_with_little_noise_the_pixel() -> None:
    p = np.zeros((K, 9, 9), np.uint8)
    p[0], p[1] = 200, 50
    p[:2, 4, 4] = 100, 150
    layers = {"label": (p.argmax(0) + 1).astype(np.uint8), "confidence": p.max(0), "probability": p}
    source, box = source_of(layers)
    smooth = BayesConfig().made(AROUND).apply(source, box)
    assert (smooth["label"] == 1).all()
    kept = BayesConfig(smoothness=1e-6, fraction=1).made(AROUND).apply(source, box)
    assert kept["label"][4, 4] == 2
    assert abs(int(kept["probability"][1, 4, 4]) - 150) <= 2


def test_real_probabilities_are_smoothed_alike_by_any_tiling(real_data) -> None:
    """Probabilities of eight crops, as WorldCereal gave them for a place in Belgium."""
    with xr.open_dataset(real_data / "worldcereal" / "worldcereal_croptype_classification.nc") as file:
        percent = file["__xarray_dataarray_variable__"].sel(bands=file.bands[2:]).values.astype(float)
    p = np.floor(250 * percent / np.maximum(percent.sum(0), 1) + 0.5).astype(np.uint8)
    scheme = ClassScheme.from_names([f"crop {k}" for k in range(1, 9)])
    layers = {"label": (p.argmax(0) + 1).astype(np.uint8), "confidence": p.max(0), "probability": p}
    tilings = ((100, 100), (64, 64), (100, 13), (37, 100), (29, 31), (50, 25))
    ways = [GaussianConfig(sigma_px=1.5), BilateralConfig(), BayesConfig()]
    outs = [assert_untiled(w.made(Around(scheme, (10.0, 10.0), GRID)), layers, tilings) for w in ways]
    kernel = np.outer(gaussian_weights(1.5), gaussian_weights(1.5))
    sums = np.array([ndimage.correlate(plane.astype(np.int64), kernel, mode="constant") for plane in p])
    total = ndimage.correlate(np.ones(p.shape[1:], np.int64), kernel, mode="constant")
    np.testing.assert_array_equal(outs[0]["probability"], (2 * sums + total) // (2 * total))
    np.testing.assert_array_equal(outs[0]["label"], sums.argmax(0) + 1)
    rough = [np.abs(np.diff(o["probability"].astype(int), axis=1)).mean() for o in (layers, *outs)]
    assert max(rough[1:]) < 0.7 * rough[0]


def test_logits_are_finite_and_odd() -> None:
    table = logits()
    assert (np.diff(table) > 0).all()
    np.testing.assert_array_equal(table, -table[::-1])
    assert table[-1] / 65536 == pytest.approx(np.log(0.999 / 0.001), abs=1e-5)


@pytest.mark.parametrize("config", [GaussianConfig(), BilateralConfig(), BayesConfig()])
def test_a_map_without_probabilities_is_told_how_to_get_them(config) -> None:
    assert "probability" in config.reads
    layers = a_map(4)
    for given in ({"label": layers["label"]}, {**layers, "probability": layers["probability"][:3]}):
        source, box = source_of(given)
        with pytest.raises(InputError, match=r"5 planes, one for each class.*layers: \[probability\]"):
            config.made(AROUND).apply(source, box)


def test_settings_beyond_the_kernels_are_refused() -> None:
    with pytest.raises(InputError, match="found 30 px, expected at most 25 px"):
        GaussianConfig(sigma_m=300).made(AROUND)
    with pytest.raises(InputError, match="at most 5 px"):
        BilateralConfig(sigma_px=6).made(AROUND)
    with pytest.raises(InputError, match="at most 25 px"):
        BayesConfig(within_px=26).made(AROUND)
    for given in ({"sigma_px": 1, "sigma_m": 10}, {"sigma_px": 0}):
        with pytest.raises(ValidationError):
            GaussianConfig(**given)
    with pytest.raises(ValidationError, match="above 0"):
        BayesConfig(classes={"water": 0})
