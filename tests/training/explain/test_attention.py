"""Attention by class and date, whatever order the dates come in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.values.errors import DataError
from tests.training.explain.planted import DATES, NORMAL, Linear, examples, season
from training.explain.attention import attention
from training.explain.lens import Lens


class _Looking(Linear):
    """Looks at the date whose first band is largest (head 1), and at all valid dates alike (head 2)."""

    def attention(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        largest = torch.softmax(50 * x_BTCHW[:, :, 0], dim=1)
        alike = valid_BTHW / valid_BTHW.sum(dim=1, keepdim=True)
        return torch.stack([largest, alike], dim=1)


def _made() -> tuple[np.ndarray, np.ndarray]:
    values = np.zeros((6, DATES, 3))
    of = np.arange(6) % 2
    values[np.arange(6), np.where(of == 1, 4, 1), 0] = 2.0
    values[:, 3] = np.nan
    return values, of


def test_each_class_is_given_the_date_that_it_is_looked_at() -> None:
    values, of = _made()
    made = examples(values, of, side=2)
    found = attention(Lens(_Looking(np.zeros((2, DATES, 3))), NORMAL), made, season(made))
    by_class = found.by_class(2)
    assert by_class.shape == (2, 2, DATES)
    np.testing.assert_allclose(by_class[0, 0], [0, 1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(by_class[1, 0], [0, 0, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(by_class[:, 1], [[0.25, 0.25, 0.25, 0, 0.25]] * 2, atol=1e-6)
    np.testing.assert_allclose(found.even, by_class[[0] * 6, 1], atol=1e-6)


def test_steps_are_in_the_order_of_time() -> None:
    values, of = _made()
    back = examples(values[:, ::-1], of, np.broadcast_to([182, 152, 121, 91, 60], (6, DATES)))
    found = attention(Lens(_Looking(np.zeros((2, DATES, 3))), NORMAL), back, season(back))
    np.testing.assert_allclose(found.by_class(2)[1, 0], [0, 0, 0, 0, 1], atol=1e-6)


def test_weights_that_do_not_fit_the_dates_are_refused() -> None:
    class Short(_Looking):
        def attention(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
            return super().attention(x_BTCHW, valid_BTHW)[:, :, 1:]

    values, of = _made()
    made = examples(values, of)
    with pytest.raises(DataError, match="4 weights, expected 5 dates"):
        attention(Lens(Short(np.zeros((2, DATES, 3))), NORMAL), made, season(made))
