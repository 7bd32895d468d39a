"""The worked examples of the papers that the estimators come from, to the digits that they print.

- Olofsson et al. 2014, Remote Sens. Environ. 148:42-57: counts of Table 8, shares of Table 9, results of page 54.
- Stehman 2014, Int. J. Remote Sens. 35:4923-4939: 40 points of Table 2, results of pages 4932-4936.
- Card 1982, Photogramm. Eng. Remote Sens. 48:431-439: counts and map shares of its example; its formulas by exact
  fractions. The figures that the paper prints for it could not be had, so none are claimed here.
- Congalton and Green 1999, chapter 5, work Card's computation on a matrix of their own: shares and overall accuracy.
"""

from __future__ import annotations

from fractions import Fraction
from math import sqrt

import numpy as np
import pytest

from engine.assessment.stratified import Accuracy, accuracy
from engine.assessment.types import Sample, Stratum

PER_HECTARE = 0.09  # Landsat pixels
ENDLESS = 10**6  # pixels per pixel of the papers: none of their formulas corrects for a finite population


def of_matrix(counts: np.ndarray, pixels: list[int], hectares: float = PER_HECTARE) -> Sample:
    """Points of a matrix, rows map = strata, columns reference; classes 1, 2, ..."""
    row, column = np.indices(counts.shape)
    mapped, reference = (np.repeat(v.ravel() + 1, counts.ravel()) for v in (row, column))
    strata = [Stratum(str(i + 1), n * ENDLESS, n * hectares, mapped=i + 1) for i, n in enumerate(pixels)]
    return Sample.of(strata, mapped - 1, mapped, reference)


@pytest.fixture(scope="module")
def olofsson() -> Accuracy:
    counts = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    return accuracy(of_matrix(counts, [200_000, 150_000, 3_200_000, 6_450_000]), kind="normal")


def test_olofsson_2014_table_9(olofsson: Accuracy) -> None:
    printed = [
        [0.0176, 0, 0.0013, 0.0011],
        [0, 0.0110, 0.0016, 0.0024],
        [0.0019, 0, 0.2967, 0.0213],
        [0.0040, 0.0020, 0.0179, 0.6212],
    ]
    assert olofsson.shares.round(4).tolist() == printed


def half(error: float | None) -> float:
    """The papers print 1.96 standard errors after ±."""
    assert error is not None
    return 1.96 * error


def test_olofsson_2014_accuracies(olofsson: Accuracy) -> None:
    users = [(round(e.value, 2), round(half(e.standard_error), 2)) for e in olofsson.users.values()]
    assert users == [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    producers = [(round(e.value, 2), round(half(e.standard_error), 2)) for e in olofsson.producers.values()]
    # The paper prints ±0.23 and ±0.01 for the second and the last, which its own equation 7 does not give.
    assert producers == [(0.75, 0.21), (0.85, 0.25), (0.93, 0.03), (0.96, 0.02)]
    assert (round(olofsson.overall.value, 2), round(half(olofsson.overall.standard_error), 2)) == (0.95, 0.02)


def test_olofsson_2014_equation_7(olofsson: Accuracy) -> None:
    counts = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]], float)
    size = np.array([200_000, 150_000, 3_200_000, 6_450_000], float)
    n = counts.sum(axis=1)
    for j, estimate in enumerate(olofsson.producers.values()):
        column = (size / n * counts[:, j]).sum()
        user, producer = counts[j, j] / n[j], size[j] / n[j] * counts[j, j] / column
        own = size[j] ** 2 * (1 - producer) ** 2 * user * (1 - user) / (n[j] - 1)
        share = counts[:, j] / n
        others = np.delete(size**2 * share * (1 - share) / (n - 1), j).sum()
        assert estimate.standard_error == pytest.approx(sqrt(own + producer**2 * others) / column, rel=1e-6)


def test_olofsson_2014_areas(olofsson: Accuracy) -> None:
    hectares = [(round(e.value), round(half(e.standard_error))) for e in olofsson.areas_ha.values()]
    assert hectares == [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]
    deforested = olofsson.areas_ha[1].scaled(1 / PER_HECTARE)
    assert round(deforested.value) == 235_086
    assert round(half(deforested.standard_error)) == 68_418


@pytest.fixture(scope="module")
def stehman() -> Accuracy:
    code = {"A": 1, "B": 2, "C": 3, "D": 4}
    mapped = [code[c] for c in "AAAAAAABBBABBBBBBBBBBBCCCCCCBBDDDDDDDDDD"]
    reference = [code[c] for c in "AAAAACBABCABBBBBAABBCCCCCDDBBADDDDDDDCCB"]
    strata = [Stratum(str(i + 1), n, n * 1.0) for i, n in enumerate([40_000, 30_000, 20_000, 10_000])]
    return accuracy(Sample.of(strata, np.repeat(range(4), 10), mapped, reference))


def test_stehman_2014(stehman: Accuracy) -> None:
    def told(estimate) -> tuple[float, float]:
        return round(estimate.value, 3), round(estimate.standard_error, 3)

    assert told(stehman.area_shares[1]) == (0.35, 0.082)  # p. 4932 and 4935
    assert told(stehman.area_shares[3]) == (0.20, 0.064)
    assert told(stehman.overall) == (0.63, 0.085)
    assert told(stehman.users[2]) == (0.574, 0.125)
    # The paper prints 0.114: it enters 0 for a variance of stratum 4 that its own Table 3 gives as 0.1.
    assert told(stehman.producers[2]) == (0.794, 0.117)
    assert round(stehman.shares[1, 2], 3) == 0.08  # cell (2, 3), p. 4935


CARD = np.array([[48, 1, 1, 0, 0], [0, 49, 0, 1, 0], [2, 0, 47, 1, 0], [5, 4, 3, 34, 4], [0, 0, 3, 12, 35]])
CARD_SHARES = (40, 40, 12, 4, 4)  # percent of the map


def test_card_1982_by_its_formulas() -> None:
    found = accuracy(of_matrix(CARD, [n * 1000 for n in CARD_SHARES]))
    w = [Fraction(n, 100) for n in CARD_SHARES]
    p = [[w[j] * int(n) / 50 for n in row] for j, row in enumerate(CARD)]
    np.testing.assert_allclose(found.shares, np.array(p, float), rtol=1e-12)
    assert Fraction(found.overall.value).limit_denominator(10**6) == sum(p[i][i] for i in range(5))
    assert float(sum(p[i][i] for i in range(5))) == 0.944
    # Card divides by n where an unbiased variance divides by n - 1: 50 points in each stratum.
    variance = sum(p[i][i] * (w[i] - p[i][i]) / 50 for i in range(5))
    assert found.overall.standard_error == pytest.approx(sqrt(variance * 50 / 49), rel=1e-6)
    for i in range(5):
        spread = sum(p[j][i] * (w[j] - p[j][i]) / 50 for j in range(5))
        assert found.area_shares[i + 1].standard_error == pytest.approx(sqrt(spread * 50 / 49), rel=1e-6)
        assert found.users[i + 1].value == pytest.approx(CARD[i, i] / 50)


def test_congalton_and_green_by_card() -> None:
    counts = np.array([[65, 4, 22, 24], [6, 81, 5, 8], [0, 11, 85, 19], [4, 7, 3, 90]])
    found = accuracy(of_matrix(counts, [300, 400, 100, 200]))
    printed = [
        [0.170, 0.010, 0.057, 0.063],
        [0.024, 0.324, 0.020, 0.032],
        [0.000, 0.010, 0.074, 0.017],
        [0.008, 0.013, 0.006, 0.173],
    ]
    assert found.shares.round(3).tolist() == printed
    assert round(found.overall.value, 3) == 0.741
