"""A trained network as explanations see it: what it answers, for what, when something is changed.

The score of a class is its log-odds, ``logit_k - logsumexp of the other logits``: what makes all classes more
likely at once cancels out, and it does not flatten where the network is sure.

Shape suffixes: B batch, N example, T date, C band, H row, W column, K class, P counted pixel, F feature.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.inference.heads import scaled
from engine.models.registry import build, takes_days
from engine.values.errors import DataError, InputError
from engine.values.head import Classes
from training.batch import IGNORE
from training.metrics import Scores, confusion

if TYPE_CHECKING:
    from engine.inference.bundle import Bundle
    from engine.models.normalise import LogSigmoid, Standard
    from engine.values.calibration import VectorScale
    from training.explain.examples import Examples

AVERAGE = 2.0**-20
_PIECE_VALUES = 2**21  # of the input at a time: about 8 MiB as float32


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a network sees of some examples.

    Attributes:
        x: (B, T, C, H, W) normalised, 0 where not valid.
        valid: (B, T, H, W), 1 = valid.
        days: (B, T) running days, 0 = no such date.
        which: Their places among all examples.
    """

    x: torch.Tensor
    valid: torch.Tensor
    days: torch.Tensor
    which: slice

    def without(self, hidden_BT: NDArray[np.bool_]) -> Inputs:
        """Hide dates, as if they had not been seen."""
        keep_BT = torch.from_numpy(~hidden_BT)[:, :, None, None].to(self.x.dtype)
        return replace(self, x=self.x * keep_BT[:, :, None], valid=self.valid * keep_BT)


def average(x_BTCHW: torch.Tensor) -> torch.Tensor:
    """Set what is there to the mean of the training pixels: next to nothing, as 0 itself may mean no data."""
    return (x_BTCHW != 0).to(x_BTCHW.dtype) * AVERAGE


Change = Callable[[Inputs], Inputs]
"""Something that is done to what the network sees."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers at the counted pixels.

    Attributes:
        truth: (P,) int64 class indices.
        probability: (P, K) float32, after the bundle's temperature.
    """

    truth: NDArray[np.int64]
    probability: NDArray[np.float32]

    @property
    def scores(self) -> Scores:
        """Accuracy, F1 and the like over the counted pixels."""
        k = self.probability.shape[1]
        return Scores.of(confusion(self.truth, self.probability.argmax(axis=1), k))

    @property
    def own(self) -> NDArray[np.float64]:
        """Mean probability of the true class, over the pixels of each class; NaN without any."""
        own_P = self.probability[np.arange(len(self.truth)), self.truth].astype(np.float64)
        n_classes = self.probability.shape[1]
        total = np.bincount(self.truth, own_P, minlength=n_classes)
        number = np.bincount(self.truth, minlength=n_classes)
        return np.divide(total, number, out=np.full(n_classes, np.nan), where=number > 0)


@dataclass(frozen=True, eq=False)
class Lens:
    """A network with its normalisation.

    Attributes:
        module: In evaluation mode, its parameters without gradients.
        normalisation: From uint16 to its input.
        takes_days: Whether its forward also takes days.
        temperature: Divides the logits before the softmax.
        vector: Scales and shifts the logits before that.
    """

    module: torch.nn.Module
    normalisation: Standard | LogSigmoid
    takes_days: bool = False
    temperature: float = 1.0
    vector: VectorScale | None = None

    def __post_init__(self) -> None:
        self.module.eval().requires_grad_(False)

    @classmethod
    def of(cls, bundle: Bundle) -> Lens:
        """Open a bundle of the registry that tells classes.

        Raises:
            InputError: If it is a graph (ONNX, pt2), whose inside cannot be looked at, or tells no classes.
            DataError: If the weights do not fit the architecture.
        """
        if bundle.architecture is None or bundle.config is None:
            raise InputError(
                "only networks of the registry can be explained",
                where=str(bundle.path),
                found=f"model.{bundle.kind}",
                limit="model.safetensors",
                mend="explain the bundle that this graph was exported from",
            )
        if not isinstance(bundle.head, Classes):
            raise InputError(
                "only networks that tell one class a pixel can be explained",
                where=str(bundle.path),
                found=f"head {bundle.head.kind}",
                limit="head classes",
            )
        days = takes_days(bundle.architecture)
        return cls(_module(bundle), bundle.normalisation, days, bundle.temperature, bundle.vector)

    def with_state(self, state: Mapping[str, torch.Tensor]) -> Lens:
        """Return the same network with other weights; this one keeps its own."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(dict(state))
        return replace(self, module=module)

    def has(self, name: str) -> bool:
        """Tell whether the network offers ``features`` or ``attention``."""
        return callable(getattr(self.module, name, None))

    def pieces(self, examples: Examples, times: int = 1) -> Iterator[Inputs]:
        """Yield what the network sees, in pieces of bounded size.

        Args:
            examples: All of them.
            times: Copies of each example that will be evaluated at once.
        """
        each = max(1, int(np.prod(examples.batch.x.shape[1:])) * times)
        step = max(1, _PIECE_VALUES // each)
        for start in range(0, len(examples), step):
            which = slice(start, min(start + step, len(examples)))
            yield self.inputs(examples[which], which)

    def inputs(self, examples: Examples, which: slice) -> Inputs:
        """Prepare examples as training and prediction do."""
        batch = examples.batch
        x_BTCHW, valid_BTHW = batch.prepared(self.normalisation)
        parameter = next(self.module.parameters(), None)
        kind = torch.float32 if parameter is None else parameter.dtype
        return Inputs(x_BTCHW.to(kind), valid_BTHW.to(kind), batch.dates.to(kind), which)

    def there(self, inputs: Inputs) -> torch.Tensor:
        """Tell where there is input, bool (B, T, C, H, W): on valid dates; of groups of planes those that are there."""
        if getattr(self.normalisation, "groups", None) is not None:
            return inputs.x != 0
        return (inputs.valid > 0)[:, :, None].expand_as(inputs.x)

    def logits(self, inputs: Inputs) -> torch.Tensor:
        """Return ``logits_BKHW``, calibrated as in the map."""
        found: torch.Tensor = self.call(self.module, inputs)
        return (found if self.vector is None else scaled(found, self.vector)) / self.temperature

    def call(self, function: Callable[..., Any], inputs: Inputs) -> Any:
        """Call the module or one of its methods with what it takes."""
        more = (inputs.days,) if self.takes_days else ()
        return function(inputs.x, inputs.valid, *more)

    @torch.no_grad()
    def answers(self, examples: Examples, change: Change | None = None) -> Answers:
        """Answer at the counted pixels, of changed input where a change is given."""
        truth, probability = [], []
        for inputs in self.pieces(examples):
            seen = inputs if change is None else change(inputs)
            share_BHWK = self.logits(seen).softmax(dim=1).permute(0, 2, 3, 1)
            target_BHW = examples.batch.target[inputs.which]
            counted_BHW = target_BHW != IGNORE
            truth.append(target_BHW[counted_BHW].numpy().astype(np.int64))
            probability.append(share_BHWK[counted_BHW].numpy().astype(np.float32))
        return Answers(np.concatenate(truth), np.concatenate(probability))

    @torch.no_grad()
    def features(self, examples: Examples, change: Change | None = None) -> NDArray[np.float32]:
        """Return the last hidden features of each example, the mean over the pixels of its class: (N, F).

        Raises:
            InputError: If the network offers none.
        """
        if not self.has("features"):
            raise InputError("the network offers no hidden features", where=type(self.module).__name__)
        found = []
        for inputs in self.pieces(examples):
            seen = inputs if change is None else change(inputs)
            features_BFHW = self.call(self.module.features, seen)  # type: ignore[arg-type]
            mine_BHW = fitted(examples.mine[inputs.which], features_BFHW.shape[2:])
            found.append(mean_over(features_BFHW, mine_BHW))
        return torch.cat(found).numpy().astype(np.float32)


def log_odds(logits_BKHW: torch.Tensor, mine_BHW: torch.Tensor, of_B: torch.Tensor) -> torch.Tensor:
    """Return the log-odds of each example's own class, the mean over its pixels: (B,).

    Args:
        logits_BKHW: Of all classes; of a single class the logit itself is the score.
        mine_BHW: Pixels of the example's class, at least one.
        of_B: Class index of each example, int64.
    """
    own_BHW = logits_BKHW.gather(1, of_B[:, None, None, None].expand(-1, 1, *logits_BKHW.shape[2:]))[:, 0]
    if logits_BKHW.shape[1] > 1:
        classes = torch.arange(logits_BKHW.shape[1])[None, :, None, None]
        others = logits_BKHW.masked_fill(classes == of_B[:, None, None, None], -torch.inf)
        own_BHW = own_BHW - others.logsumexp(dim=1)
    return mean_over(own_BHW[:, None], mine_BHW)[:, 0]


def mean_over(values_BFHW: torch.Tensor, mine_BHW: torch.Tensor) -> torch.Tensor:
    """Return the mean over some pixels of each item, (B, F)."""
    weight_B1HW = mine_BHW[:, None].to(values_BFHW.dtype)
    return (values_BFHW * weight_B1HW).sum(dim=(2, 3)) / weight_B1HW.sum(dim=(2, 3)).clamp_min(1)


def fitted(mine_BHW: torch.Tensor, size_yx: tuple[int, ...]) -> torch.Tensor:
    """Bring a mask to the size of coarser features: a cell counts where any of its pixels does."""
    if mine_BHW.shape[1:] == tuple(size_yx):
        return mine_BHW
    pooled = torch.nn.functional.adaptive_max_pool2d(mine_BHW[:, None].to(torch.float32), tuple(size_yx))
    return pooled[:, 0] > 0


def _module(bundle: Bundle) -> torch.nn.Module:
    from safetensors.torch import load

    module = build(str(bundle.architecture), bundle.config.model_dump() if bundle.config else {})
    try:
        module.load_state_dict(load(bundle.read_weights()))
    except RuntimeError as error:
        raise DataError(
            "the weights do not fit the architecture", where=str(bundle.weights_path), found=str(error)
        ) from error
    return module
