"""Normalisation against numpy in float64, and the no-data rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from engine.models.normalise import LogSigmoid, Standard, prepare, read_normalisation
from engine.values.errors import InputError

_KINDS = [
    Standard(mean=(500.0, 1500.0, 3000.0), std=(200.0, 700.0, 900.0)),
    LogSigmoid(centre=(1.74, 1.72, 1.67), scale=(2.0, 2.1, 2.2)),
]


def _oracle(x_BTCHW: np.ndarray, kind: Standard | LogSigmoid) -> np.ndarray:
    x = x_BTCHW.astype(np.float64)
    if isinstance(kind, Standard):
        y = (x - np.array(kind.mean)[:, None, None]) / np.array(kind.std)[:, None, None]
    else:
        y = (np.log(0.005 * x + 1) - np.array(kind.centre)[:, None, None]) / np.array(kind.scale)[
            :, None, None
        ]
        y = np.exp(5 * y - 1)
        y = y / (y + 1)
    return np.where((x_BTCHW != 0).all(axis=2, keepdims=True), y, 0.0)


@pytest.mark.parametrize("kind", _KINDS, ids=lambda k: k.kind)
@settings(max_examples=25, deadline=None)
@given(
    x_BTCHW=hnp.arrays(
        np.uint16,
        st.tuples(st.integers(1, 2), st.integers(1, 3), st.just(3), st.integers(1, 5), st.integers(1, 5)),
        elements=st.sampled_from([0, 1, 2, 400, 3000, 10000, 40000, 65535]),
    )
)
def test_values_and_validity_match_numpy(kind: Standard | LogSigmoid, x_BTCHW: np.ndarray) -> None:
    found, valid = prepare(torch.tensor(x_BTCHW), kind)
    assert found.dtype == valid.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), _oracle(x_BTCHW, kind), rtol=2e-4, atol=1e-5)
    np.testing.assert_array_equal(valid.numpy(), (x_BTCHW != 0).all(axis=2))


@pytest.mark.parametrize("kind", _KINDS, ids=lambda k: k.kind)
def test_one_missing_band_hides_the_date_and_no_other(kind: Standard | LogSigmoid) -> None:
    x_BTCHW = torch.full((1, 2, 3, 2, 2), 900, dtype=torch.uint16)
    x_BTCHW[0, 1, 2, 0, 0] = 0
    found, valid = prepare(x_BTCHW, kind)
    assert valid.sum() == 7
    assert (found[0, 1, :, 0, 0] == 0).all()
    assert (found[0, 0, :, 0, 0] != 0).all()


def test_the_input_is_left_alone() -> None:
    x_BTCHW = torch.full((1, 1, 3, 2, 2), 900, dtype=torch.uint16)
    prepare(x_BTCHW, _KINDS[0])
    assert (x_BTCHW.numpy() == 900).all()


def test_another_number_of_bands_is_refused() -> None:
    with pytest.raises(InputError, match="2 bands"):
        prepare(torch.ones((1, 1, 2, 4, 4), dtype=torch.uint16), _KINDS[0])


@pytest.mark.parametrize("kind", _KINDS, ids=lambda k: k.kind)
def test_a_normalisation_survives_json(kind: Standard | LogSigmoid) -> None:
    assert read_normalisation(kind.model_dump(mode="json")) == kind


def test_constants_must_pair_and_divide() -> None:
    with pytest.raises(ValidationError, match="one value per band"):
        Standard(mean=(1.0,), std=(1.0, 2.0))
    with pytest.raises(ValidationError, match="divisor"):
        LogSigmoid(centre=(1.0,), scale=(0.0,))


def test_dynamic_world_constants_are_read(real_data: Path, tmp_path: Path) -> None:
    kind = LogSigmoid.from_file(real_data / "weights" / "dynamicworld_normalisation.json")
    assert kind.n_bands == 9
    assert kind.centre[0] == pytest.approx(1.7417268, abs=1e-6)
    broken = tmp_path / "n.json"
    broken.write_text('{"centre": [1.0]}')
    with pytest.raises(InputError, match=r"n\.json"):
        LogSigmoid.from_file(broken)
