"""Published weights of an encoder, from a file, into a network of other bands and dates.

::

    backbone.conv1.weight (64, 13, 7, 7)          encoder.first.0.weight (64, T x C + T, 7, 7)
             B01 B02 B03 ... B12          ──►      B02 B03 B04 B8A | B02 B03 ... | validity of each date
                                                   a T-th of each    a T-th        0

The first layer is taken apart by band: bands that both know keep their weights, bands that the weights do not know
begin at 0, and so does the validity; of several dates side by side each gets an equal part, so that a scene
given T times is answered as the scene alone. Files are those of torchgeo for Sentinel-2 (SSL4EO-S12, Wang et al. 2023,
doi:10.1109/MGRS.2023.3281651), of timm, torchvision and segmentation-models-pytorch, bare or within a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.values.bands import BANDS, find_band
from engine.values.errors import InputError

SENTINEL2 = tuple(band.name for band in BANDS if band.kind == "reflectance")
"""The 13 bands of Sentinel-2 in the order of published weights: B01 ... B08, B8A, B09 ... B12."""

_CLASSIFIERS = ("fc.", "classifier.", "head.", "last_linear.")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class EncoderLayout:
    """Where a network has its encoder.

    Attributes:
        names: The network's own name of each tensor of the encoder: the published one.
        first: Own name of the tensor that meets the bands, (features, dates x bands + others, ...).
        dates: Dates that it meets side by side.
    """

    names: Mapping[str, str]
    first: str
    dates: int


@dataclass(frozen=True)
class Filled:
    """What published weights filled.

    Attributes:
        whole: The network's own names of tensors that hold nothing else; the first layer is none of them if it
            also meets bands that the weights do not know, or validity.
        bands: Bands of the network that the weights know.
    """

    whole: frozenset[str]
    bands: tuple[str, ...]


def load_encoder(
    module: Any,
    state: Mapping[str, torch.Tensor],
    bands: Sequence[str],
    given_bands: Sequence[str] | None = None,
) -> Filled:
    """Fill a network's encoder with published weights.

    Args:
        module: A network with ``encoder_layout``: ``unet_resnet``, ``unet_seasons`` or ``smp``; filled in place.
        state: Tensors by name, as `engine.inference.state.read_state_dict` reads them.
        bands: The network's bands, in their order.
        given_bands: Those of the published first layer; None: all 13 of Sentinel-2, or red, green, blue where
            there are three.

    Returns:
        What was filled.

    Raises:
        InputError: If the network has no such encoder, a tensor is missing, one is left over, one has another
            shape, or no band is known to both.
    """
    layout = getattr(module, "encoder_layout", None)
    if layout is None:
        raise InputError(
            "the network has no encoder that published weights could fill",
            where="architecture",
            found=type(module).__name__,
            limit="unet_resnet, unet_seasons, smp",
        )
    given = _named(state, layout)
    own = module.state_dict()
    if layout.first not in given:
        raise _not_of_this([layout.names[layout.first]])
    known = _given_bands(int(given[layout.first].shape[1]), given_bands)
    columns = _columns(known, bands)
    given[layout.first] = _first(given[layout.first], own[layout.first], layout.dates, columns)
    wrong = {layout.names[name] for name in given if given[name].shape != own[name].shape}
    wrong |= {layout.names[name] for name in set(layout.names) - set(given) if not name.endswith(_COUNTER)}
    if wrong:
        raise _not_of_this(sorted(wrong))
    module.load_state_dict({**own, **given})
    whole = None not in columns and own[layout.first].shape[1] == layout.dates * len(bands)
    shared = tuple(name for name, column in zip(bands, columns, strict=True) if column is not None)
    return Filled(frozenset(given) - (set() if whole else {layout.first}), shared)


def _named(state: Mapping[str, torch.Tensor], layout: EncoderLayout) -> dict[str, torch.Tensor]:
    """Find the encoder within a checkpoint, and name its tensors as the network does."""
    prefix = _prefix(state, layout)
    inner = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    known = set(layout.names.values())
    rest = [name for name in inner if name not in known and not name.startswith(_CLASSIFIERS)]
    if rest:
        raise _not_of_this(sorted(rest))
    return {own: inner[name] for own, name in layout.names.items() if name in inner}


def _prefix(state: Mapping[str, torch.Tensor], layout: EncoderLayout) -> str:
    """Return what stands before the encoder's names, e.g. ``module.encoder_q.``."""
    first = layout.names[layout.first]
    found = {name.removesuffix(first) for name in state if name == first or name.endswith(f".{first}")}
    hits = {prefix: sum(prefix + name in state for name in layout.names.values()) for prefix in found}
    best = sorted(prefix for prefix, count in hits.items() if count == max(hits.values()))
    learnt = [prefix for prefix in best if "encoder_k" not in prefix]  # MoCo's momentum copy of encoder_q
    if len(learnt) == 1:
        return learnt[0]
    if not learnt:
        raise _not_of_this(sorted(state))
    raise InputError(
        "the file holds several encoders",
        where="weights",
        found=learnt,
        mend="keep the tensors of one of them",
    )


def _given_bands(count: int, named: Sequence[str] | None) -> tuple[str, ...]:
    usual = {13: SENTINEL2, 3: ("red", "green", "blue")}
    bands = usual.get(count, ()) if named is None else tuple(named)
    if len(bands) != count:
        raise InputError(
            "the published first layer has another number of bands",
            where="bands of the weights",
            found=len(bands) if bands else "none named",
            limit=count,
            mend="name the bands of the weights in their order",
        )
    return bands


def _columns(theirs: Sequence[str], ours: Sequence[str]) -> list[int | None]:
    """Return the column of the published first layer of each band of ours; None of those it does not know."""
    published, wanted = ([_normal(name) for name in side] for side in (theirs, ours))
    if not set(published) & set(wanted):
        raise InputError("the weights know none of the bands", where="bands", found=wanted, limit=published)
    return [published.index(name) if name in published else None for name in wanted]


def _first(given: torch.Tensor, own: torch.Tensor, dates: int, columns: list[int | None]) -> torch.Tensor:
    """Take the published first layer apart by band; see the module's drawing."""
    found = own.new_zeros((len(given), *own.shape[1:2], *given.shape[2:]))
    for index, column in enumerate(columns):
        if column is not None:
            found[:, index : dates * len(columns) : len(columns)] = (given[:, column] / dates)[:, None]
    return found


def _normal(name: str) -> str:
    """Return landweave's name of a band; indices and layers keep theirs."""
    found = find_band(name)
    return name if found is None else found.name


def _not_of_this(names: Sequence[str]) -> InputError:
    return InputError(
        "the weights are not of this encoder",
        where="weights",
        found=", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else ""),
        mend="name the encoder (and its width) that they were trained with",
    )
