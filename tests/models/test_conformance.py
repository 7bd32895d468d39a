"""The conformance class, on networks that are there, and on ones that are wrong in a known way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engine.models.pixel import TempCnn
from engine.models.temporal.dates import Ordered, in_order
from tests.models.conformance import Case, NetworkConformance


class TestMlp(NetworkConformance):
    @pytest.fixture
    def case(self) -> Case:
        return Case("mlp", {"n_dates": 5, "width": 16}, any_dates=True)


class TestTempCnn(NetworkConformance):
    @pytest.fixture(params=[{}, {"kernel": 3}], ids=str)
    def case(self, request: pytest.FixtureRequest) -> Case:
        return Case("tempcnn", {"width": 16, **request.param})


CASE = Case("tempcnn", {"width": 8})
CHECKS = NetworkConformance()


def _unsorted(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> Ordered:
    return Ordered(x_BTCHW, valid_BTHW, days.reshape(-1, days.shape[-1]))


def _of_the_whole_batch(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> Ordered:
    return in_order(x_BTCHW - x_BTCHW.mean(), valid_BTHW, days)


def _without_values(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> Ordered:
    return in_order(x_BTCHW * 0 + torch.rand(()), valid_BTHW, days)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (_unsorted, CHECKS.test_the_order_of_the_dates_says_nothing_where_days_tell_it),
        (_unsorted, CHECKS.test_absent_dates_say_nothing_or_are_refused),
        (_of_the_whole_batch, CHECKS.test_a_sample_does_not_depend_on_its_batch),
        (_of_the_whole_batch, CHECKS.test_neighbours_count_unless_it_says_that_it_is_pixelwise),
        (_without_values, CHECKS.test_learns_one_small_batch_by_heart),
    ],
)
def test_a_network_with_a_fault_is_found(
    fault: Callable[..., Ordered], check: Callable[[Case], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(CASE)
    monkeypatch.setattr("engine.models.pixel.in_order", fault)
    with pytest.raises(AssertionError):
        check(CASE)


def test_a_parameter_that_nothing_reaches_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    features = TempCnn.features
    monkeypatch.setattr(TempCnn, "features", lambda self, *given: features(self, *given).detach())
    with pytest.raises(AssertionError, match="layers"):
        CHECKS.test_gradients_reach_every_parameter(CASE)


def test_a_network_that_fails_without_dates_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    features = TempCnn.features

    def divided(
        self: TempCnn, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, *days: torch.Tensor
    ) -> torch.Tensor:
        return features(self, x_BTCHW, valid_BTHW, *days) / valid_BTHW.mean(dim=1, keepdim=True)

    monkeypatch.setattr(TempCnn, "features", divided)
    with pytest.raises(AssertionError):
        CHECKS.test_stays_finite_where_there_is_no_date(CASE)
