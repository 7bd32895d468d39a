from __future__ import annotations

import numpy as np
import pytest

from pipelines.sample.noise import block_mean, enlarge, power_noise, stream, wave_field


def test_a_stream_depends_on_seed_purpose_and_keys() -> None:
    first = stream(7, "cloud", 3).random(4)
    assert np.array_equal(first, stream(7, "cloud", 3).random(4))
    for other in (stream(8, "cloud", 3), stream(7, "soil", 3), stream(7, "cloud", 4)):
        assert not np.array_equal(first, other.random(4))


def test_power_noise_is_standardised_and_keeps_its_wavelengths() -> None:
    noise = power_noise(stream(1, "t"), (256, 256), 10, 2.0, (100, 800))
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=1e-5)
    assert noise.std() == pytest.approx(1, abs=1e-4)
    power = np.abs(np.fft.fft2(noise * np.outer(np.hanning(256), np.hanning(256)))) ** 2
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(256, 10), np.fft.fftfreq(256, 10)))
    assert power[k > 1 / 40].sum() < 1e-3 * power.sum()


def test_a_steeper_spectrum_is_smoother() -> None:
    rough, smooth = (power_noise(stream(1, "t"), (128, 128), 10, s, (20, 2000)) for s in (0.5, 3.0))
    assert np.abs(np.diff(smooth)).mean() < 0.4 * np.abs(np.diff(rough)).mean()


def test_a_wave_field_has_unit_variance_over_a_large_place() -> None:
    field = wave_field(stream(1, "t"), (500, 2000), 32)
    values = field(np.random.default_rng(0).uniform(0, 200_000, (20_000, 2)))
    assert values.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("factor", [1, 2, 6])
def test_block_mean_is_the_mean_of_blocks(factor: int) -> None:
    values = np.random.default_rng(0).random((12, 18), dtype=np.float32)
    blocks = [
        [
            values[y : y + factor, x : x + factor].astype(float).mean()
            for x in range(0, values.shape[1], factor)
        ]
        for y in range(0, values.shape[0], factor)
    ]
    assert np.allclose(block_mean(values, factor), blocks, atol=1e-6)


def test_enlarge_keeps_a_plane() -> None:
    y, x = np.mgrid[0:20, 0:30].astype(np.float32)
    fine = enlarge(3 * y + 2 * x, 4, (78, 118))
    wanted = 3 * ((np.arange(78) + 0.5) / 4 - 0.5)[:, None] + 2 * ((np.arange(118) + 0.5) / 4 - 0.5)
    assert np.allclose(fine[4:-4, 4:-4], wanted[4:-4, 4:-4], atol=1e-3)
    assert fine.min() >= 0
