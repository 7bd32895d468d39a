"""How far a pixel is from what a network learnt: the layer ``unfamiliar``.

A network answers anywhere, also where nothing is like its training. What tells is the distance of a pixel's last
hidden features from those of the training (Lee et al. 2018, arXiv:1807.03888)::

    features f (F) ─► z = W (f - m)   whitened: pooled within-class covariance becomes the unit matrix
                   ─► d = min over classes of |z - z_class|          Mahalanobis distance to the nearest class
                   ─► u = d / (d + d95)                              0 = a class's centre, 1/2 = d95, 1 = infinitely far

``d95`` is the distance that 5% of held-out pixels exceed: above one half a pixel is stranger than nineteen of twenty
that the model was validated on. u never saturates, so that far and farther stay apart; it is blended over windows
like a probability, in the same exact integers.

A Mahalanobis distance costs one small matrix product a pixel and a few kilobytes; distances to nearest neighbours
among stored features would cost a search through thousands of them for each pixel of a country.

Shape suffixes: B batch, F feature, K class, H row, W column, N pixel.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.values.calibration import FamiliarFields
from engine.values.errors import DataError, InputError
from engine.values.lattice import PROBABILITY_ONE

if TYPE_CHECKING:
    import torch

    from engine.inference.bundle import Bundle

FILE = "familiar.safetensors"
_NAMES = ("mean_F", "whiten_FF", "centres_KF")


@dataclass(frozen=True, eq=False)
class Familiarity:
    """What features of the training look like.

    Attributes:
        mean_F: float32, of all training features.
        whiten_FF: float32, whitens what is right of it: ``(f - mean) @ whiten``.
        centres_KF: float32, whitened mean of each class that the training held.
        distance: Distance at which the score is one half.
    """

    mean_F: NDArray[np.float32]  # noqa: N815
    whiten_FF: NDArray[np.float32]  # noqa: N815
    centres_KF: NDArray[np.float32]  # noqa: N815
    distance: float

    def distances(self, features_NF: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the distance of each feature vector to the nearest class, (N,)."""
        z_NF = (features_NF.astype(np.float64) - self.mean_F) @ self.whiten_FF.astype(np.float64)
        squares = [((z_NF - centre_F) ** 2).sum(axis=1) for centre_F in self.centres_KF]
        return np.sqrt(np.min(squares, axis=0))

    def to_bytes(self) -> bytes:
        """Write the arrays as safetensors."""
        from safetensors.numpy import save

        return bytes(save({name: np.ascontiguousarray(getattr(self, name)) for name in _NAMES}))

    def fields(self) -> FamiliarFields:
        """Return what the manifest says of it."""
        digest = hashlib.sha256(self.to_bytes()).hexdigest()
        return FamiliarFields(n_features=len(self.mean_F), distance=self.distance, sha256=digest)


def read_familiarity(bundle: Bundle) -> Familiarity:
    """Read a bundle's statistics and check them.

    Raises:
        InputError: If the bundle has none.
        DataError: If the file is missing, damaged, or not the one that the manifest names.
    """
    from safetensors.numpy import load

    fields = require_familiar(bundle)
    path = bundle.path / FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError("cannot read the statistics of features", where=str(path), mend=str(error)) from error
    found = hashlib.sha256(content).hexdigest()
    if found != fields.sha256:
        raise DataError(
            "the statistics of features are not those that the manifest names",
            where=str(path),
            found=f"sha256 {found}",
            limit=fields.sha256,
            mend="copy the bundle again, or train it again",
        )
    arrays = load(content)
    mean_F, whiten_FF, centres_KF = (arrays[name] for name in _NAMES)
    return Familiarity(mean_F, whiten_FF, centres_KF, fields.distance)


def require_familiar(bundle: Bundle) -> FamiliarFields:
    """Return what the manifest says of the features.

    Raises:
        InputError: If the bundle has no statistics of them.
    """
    if bundle.familiar is None:
        raise InputError(
            "the model cannot tell what is unfamiliar: it brings no statistics of its features",
            where="layers",
            found=f"unfamiliar, of {bundle.name or bundle.path}",
            mend="leave the layer out, or train the network with `landweave train`, which measures them",
        )
    return bundle.familiar


def write_familiarity(folder: Path, familiarity: Familiarity | None) -> None:
    """Write the statistics beside the weights; what an older bundle left there goes."""
    if familiarity is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        (folder / FILE).write_bytes(familiarity.to_bytes())


class FamiliarLane:
    """A lane that also tells how unfamiliar each pixel is; as a lane to `engine.inference.blend`.

    Features come from windows as they are, whatever views the answers are averaged over, one window at a time: a
    batch could move the last bits.

    Args:
        lane: What evaluates windows, possibly in several views: ``.run`` and ``.batch``.
        plain: The lane of the network itself.
    """

    def __init__(self, lane: Any, plain: Any) -> None:
        import torch

        self.lane, self.plain = lane, plain
        familiarity = read_familiarity(plain.bundle)
        arrays = (familiarity.mean_F, familiarity.whiten_FF, familiarity.centres_KF)
        self._mean_F, self._whiten_FF, self._centres_KF = (
            torch.tensor(a, dtype=torch.float32, device=plain.device) for a in arrays
        )
        self._distance = familiarity.distance

    @property
    def batch(self) -> int:
        """Windows per evaluation."""
        return int(self.lane.batch)

    def run(self, x_BTCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
        """Evaluate windows.

        Args:
            x_BTCHW: uint16 windows, 0 = no data.

        Returns:
            (B, K + 1, H, W) int32: the lane's planes, and last the unfamiliarity, 0..65535.
        """
        p_BKHW = self.lane.run(x_BTCHW)
        scores_BHW = np.stack([self._score(self.plain.features(x_TCHW[None])[0]) for x_TCHW in x_BTCHW])
        if scores_BHW.shape[1:] != p_BKHW.shape[2:]:
            raise DataError(
                "the network's features have another size than its answers",
                where="layer unfamiliar",
                found=scores_BHW.shape[1:],
                limit=p_BKHW.shape[2:],
            )
        return np.concatenate([p_BKHW, scores_BHW[:, None]], axis=1)

    def _score(self, features_FHW: torch.Tensor) -> NDArray[np.int32]:
        import torch

        with torch.inference_mode():
            features_NF = features_FHW.flatten(1).T.contiguous()
            z_NF = (features_NF - self._mean_F) @ self._whiten_FF
            squares_N = torch.stack([(z_NF - c_F).square().sum(dim=1) for c_F in self._centres_KF]).amin(
                dim=0
            )
            distance_N = squares_N.sqrt()
            share_N = distance_N / (distance_N + self._distance)
            if not bool(torch.isfinite(share_N).all()):
                raise DataError("the network gave features that are not finite", where="layer unfamiliar")
            fixed_N = torch.round(share_N * PROBABILITY_ONE).to(torch.int32)
        found: NDArray[np.int32] = fixed_N.view(features_FHW.shape[1:]).cpu().numpy()
        return found
