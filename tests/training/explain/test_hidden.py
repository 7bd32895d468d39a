"""Hidden features part the classes when the class shows, and as the weights become better."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from engine.values.errors import InputError
from tests.training.explain.planted import DATES, NORMAL, Linear, one_place, season, two_classes
from training.explain.hidden import neighbours_agree, over_the_season, over_the_training, silhouette
from training.explain.lens import Lens


class _Learnt(Linear):
    """Its features are the inputs times a matrix that training would change."""

    def __init__(self, gain: float) -> None:
        weight = np.zeros((2, DATES, 3))
        weight[1, 3, 1] = gain
        super().__init__(weight)
        self.mix = torch.nn.Parameter(torch.eye(DATES * 3))
        with torch.no_grad():
            self.mix[10, 10] = gain  # the planted place: date 3, band 1

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bfhw,gf->bghw", x_BTCHW.flatten(1, 2), self.mix)


def test_classes_part_at_the_date_at_which_they_show() -> None:
    made = two_classes(3, 1, n=40)
    found = over_the_season(one_place(3, 1), made, season(made))
    assert found.names == ("up to 1 Mar", "up to 1 Apr", "up to 1 May", "up to 1 Jun", "up to 1 Jul")
    assert found.accuracy.tolist() == [0.5, 0.5, 0.5, 1.0, 1.0]
    assert found.silhouette[3] > found.silhouette[2] + 0.05
    assert found.neighbours[3] > found.neighbours[2]
    assert found.pca.shape == found.tsne.shape == (5, 40, 2)
    assert np.isfinite(found.tsne).all()


def test_the_last_picture_is_the_principal_components() -> None:
    made = two_classes(3, 1, n=40)
    lens = one_place(3, 1)
    found = over_the_season(lens, made, season(made))
    features = lens.features(made).astype(np.float64)
    pca = PCA(2, svd_solver="full").fit((features - features.mean(axis=0)) / features.std(axis=0))
    theirs = pca.transform((features - features.mean(axis=0)) / features.std(axis=0))
    np.testing.assert_allclose(np.abs(found.pca[-1]), np.abs(theirs), atol=1e-5)
    np.testing.assert_allclose(found.explained, pca.explained_variance_ratio_, atol=1e-6)


def test_moments_of_a_training_are_seen_with_their_own_weights() -> None:
    made = two_classes(3, 1, n=30)
    lens = Lens(_Learnt(6.0), NORMAL)
    states = [(f"step {i}", _Learnt(gain).state_dict()) for i, gain in enumerate((-1.0, 0.5, 6.0))]
    found = over_the_training(lens, states, made)
    assert found.names == ("step 0", "step 1", "step 2")
    assert found.accuracy.tolist() == [0.0, 1.0, 1.0]
    now = lens.features(made)
    np.testing.assert_array_equal(lens.with_state(states[-1][1]).features(made), now)
    assert np.ptp(found.pca[0]) < np.ptp(found.pca[-1])


def test_how_far_classes_lie_apart_at_both_ends() -> None:
    rng = np.random.default_rng(0)
    of = np.arange(60) % 3
    apart = rng.normal(size=(60, 4)) * 0.01 + np.eye(3, 4)[of]
    noise = rng.normal(size=(60, 4))
    assert silhouette(apart, of) > 0.95
    assert abs(silhouette(noise, of)) < 0.1
    assert neighbours_agree(apart, of) == 1.0
    assert neighbours_agree(noise, of) < 0.4
    assert np.isnan(silhouette(noise, np.zeros(60, np.int64)))
    assert neighbours_agree(np.zeros((8, 2)), np.zeros(8, np.int64)) == 1.0, "equal points are no trouble"


def test_a_network_without_features_says_so() -> None:
    made = two_classes(0, 0, n=4)

    class Bare(torch.nn.Module):
        def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
            return x_BTCHW[:, 0, :2]

    with pytest.raises(InputError, match="no hidden features"):
        Lens(Bare(), NORMAL).features(made)
