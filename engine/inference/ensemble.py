"""Ensembles: several bundles that map together, as one model.

A folder whose ``manifest.json`` lists the folders of its members, each a bundle of its own, and their weights::

    ensemble/
      manifest.json          landweave:members: [{bundle: a, weight: 2}, {bundle: b, weight: 1}]
      a/manifest.json, a/model.safetensors
      b/manifest.json, b/model.onnx

Members may differ in windows, blending, border, normalisation, architecture, precision and format, and in the
bands and other planes that they look at: the cube has them all and is read once. An observation counts in it
where it has all bands of all members, so a member may meet fewer observations than in a cube of its own.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.inference.augment import require_opinions, views_of
from engine.inference.bundle import Bundle, load_bundle
from engine.inference.decide import Layers
from engine.inference.manifest import FORMAT, MANIFEST, MEMBERS, read_item
from engine.inference.mean import WEIGHT_SUM_MAX
from engine.inference.unfamiliar import FILE, require_familiar
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.head import Augment, Classes, Extra, MultiLabel, Values
from engine.values.planes import Plane
from engine.values.recipe import joined_features
from engine.values.spec import BestPixel, CubeSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FOLDER = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
_WHOLE_SPECTRUM = ("medoid", "geomedian", "max_ndvi")
_MAY_DIFFER = {"bands", "season", "features", "sentinel1"}


@dataclass(frozen=True)
class Member:
    """One bundle of an ensemble, and how much it counts."""

    bundle: Bundle
    weight: int = 1


@dataclass(frozen=True)
class Ensemble:
    """Several bundles as one model; has what a `Bundle` has as far as maps are concerned.

    Two ensembles are equal when they give the same map.

    Attributes:
        members: The bundles; classes, head and all of the cube but bands, season, features and radar agree.
            Classes go by name; their values and order are those of the first.
        path: The folder.
        name: Short name.
        description: A sentence or two.
        licence: SPDX identifier.

    Raises:
        InputError: If there are fewer than two, their weights do not lie in 1..32767 together, or two differ
            in what must agree; names both.
    """

    members: tuple[Member, ...]
    path: Path = field(default=Path(), compare=False)
    name: str = field(default="", compare=False)
    description: str = field(default="", compare=False)
    licence: str = field(default="other", compare=False)

    def __post_init__(self) -> None:
        _check_weights(self.members)
        for member in self.members[1:]:
            _check_pair(self.members[0].bundle, member.bundle)
        _check_all("dates", [(m.bundle, m.bundle.n_dates) for m in self.members])
        _check_all("season", [(m.bundle, m.bundle.spec.season) for m in self.members])
        _check_all("cube's sentinel1", [(m.bundle, m.bundle.spec.sentinel1) for m in self.members])
        _check_features([m.bundle for m in self.members])

    @functools.cached_property
    def spec(self) -> CubeSpec:
        """The cube with the bands, features and radar of all members, those of the first in front."""
        first = self.members[0].bundle.spec
        specs = [m.bundle.spec for m in self.members]
        named = {
            "bands": tuple(dict.fromkeys(b for spec in specs for b in spec.bands)),
            "season": next((spec.season for spec in specs if spec.season), None),
            "sentinel1": next((spec.sentinel1 for spec in specs if spec.sentinel1), None),
            "features": joined_features([spec.features for spec in specs]),
        }
        return first.model_copy(update=named)

    @functools.cached_property
    def planes(self) -> tuple[Plane, ...]:
        """What any of the members sees, those of the first in front."""
        return tuple(dict.fromkeys(plane for m in self.members for plane in m.bundle.planes))

    @property
    def n_dates(self) -> int | None:
        """Dates of the cube; None: any number."""
        return next((n for m in self.members if (n := m.bundle.n_dates)), None)

    @property
    def classes(self) -> ClassScheme:
        """Names of the outputs, in the order of the first member."""
        return self.members[0].bundle.classes

    @property
    def head(self) -> Classes | MultiLabel | Values:
        """What the outputs mean."""
        return self.members[0].bundle.head

    @property
    def stride(self) -> int:
        """Input pixels per output pixel."""
        return self.members[0].bundle.stride

    def order(self, member: Member) -> tuple[int, ...]:
        """Return where each class of the ensemble stands among a member's outputs."""
        return tuple(member.bundle.classes.names.index(name) for name in self.classes.names)

    def layers(self, extras: tuple[Extra, ...] = ()) -> Layers:
        """Return the layers of this model's maps."""
        return Layers(self.head, self.classes.values, extras)

    def outer(self, core: Box) -> Box:
        """Return all input that the pixels of a core depend on, both in input pixels."""
        boxes = [m.bundle.outer(core) for m in self.members]
        first, last = [(b.y0, b.x0) for b in boxes], [(b.y1, b.x1) for b in boxes]
        return Box(*map(min, zip(*first, strict=True)), *map(max, zip(*last, strict=True)))

    def digest(self) -> str:
        """Return the sha256 over everything that changes a byte of the map."""
        parts = {
            "members": [(m.bundle.digest(), m.weight, self.order(m)) for m in self.members],
            "classes": self.classes.values,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("landweave.Ensemble", self.digest())


Model = Bundle | Ensemble
"""What a map is made with."""


def bundles_of(model: Model) -> tuple[Bundle, ...]:
    """Return the bundles of an ensemble, or the one that a bundle is."""
    return tuple(m.bundle for m in model.members) if isinstance(model, Ensemble) else (model,)


def halo_px(model: Model) -> int:
    """Return the side of the widest window: no pixel depends on anything farther away."""
    return max(b.lattice.window_px for b in bundles_of(model))


def evaluations(model: Model, core: Box, wanted: NDArray[np.bool_] | None, augment: Augment = "none") -> int:
    """Return how many windows (of a pixel-wise network: rows of pixels) are evaluated for a core.

    Args:
        model: Bundle or ensemble.
        core: In input pixels; its halo is there.
        wanted: (y, x) bool over the core's output pixels; None: all of them.
        augment: Views of each window, which count one by one.
    """
    return sum(b.windows(core, wanted) * len(views_of(b, augment)) for b in bundles_of(model))


def layers_for(model: Model, extras: tuple[Extra, ...], augment: Augment = "none") -> Layers:
    """Return the layers that a model gives in a run.

    Raises:
        InputError: If it has no such layer, or disagreement is asked of a single answer.
    """
    layers, bundles = model.layers(extras), bundles_of(model)
    require_opinions(extras, len(bundles), max(len(views_of(b, augment)) for b in bundles))
    if "unfamiliar" in extras:
        for bundle in bundles:
            require_familiar(bundle)
    return layers


def load_model(path: str | Path, *, trust_model: bool = False) -> Model:
    """Open a bundle or an ensemble, whichever lies in a folder, without running anything of it.

    Args:
        path: The folder.
        trust_model: As of `engine.inference.bundle.load_bundle`; of an ensemble for all members.

    Raises:
        InputError: If a manifest is missing or wrong, or members do not fit together.
        TrustError: If there are weights in a format that can run code; nothing is opened.
        DataError: If weights are missing or are not those that a manifest names.
    """
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        item = read_item(folder / MANIFEST)
        if MEMBERS in item["properties"]:
            return _load_ensemble(folder, item["properties"], trust_model=trust_model)
    return load_bundle(folder, trust_model=trust_model)


def create_ensemble(
    folder: str | Path,
    members: Sequence[tuple[str | Path, int]],
    name: str,
    *,
    description: str = "",
    trust_model: bool = False,
) -> Ensemble:
    """Write an ensemble; its members are copied into the folder unless they lie in it.

    Args:
        folder: Made if need be; an older ensemble in it is replaced.
        members: Folder of each bundle, and its weight.
        name: Short name.
        description: A sentence or two.
        trust_model: As of `load_model`.

    Returns:
        The ensemble as `load_model` gives it.

    Raises:
        InputError: If the members do not fit together; nothing is written.
    """
    found = [(load_bundle(path, trust_model=trust_model), weight) for path, weight in members]
    Ensemble(tuple(Member(*pair) for pair in found))
    home, listed = Path(folder), dict[str, int]()
    for bundle, weight in found:
        listed[_moved_in(home, bundle, set(listed))] = weight
    licences = {bundle.licence for bundle, _ in found}
    item = _item(name, description, licences.pop() if len(licences) == 1 else "other", listed)
    draft = home / f"{MANIFEST}.part"
    draft.write_text(json.dumps(item, indent=2, ensure_ascii=False) + "\n")
    draft.replace(home / MANIFEST)
    return _load_ensemble(home, item["properties"], trust_model=trust_model)


def _moved_in(home: Path, bundle: Bundle, taken: set[str]) -> str:
    """Copy a bundle's two files into an ensemble's folder; return the name of its folder there."""
    source = bundle.path.resolve()
    if source.parent == home.resolve() and source.name not in taken:
        return source.name
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", source.name).strip("-._") or "member"
    numbers = ("", *(f"-{n}" for n in range(2, len(taken) + 3)))
    name = next(plain + n for n in numbers if plain + n not in taken)
    target = home / name
    target.mkdir(parents=True, exist_ok=True)
    beside = (FILE,) if bundle.familiar else ()
    for file in (bundle.weights_path.name, *beside, MANIFEST):  # the manifest last
        shutil.copyfile(source / file, target / file)
    return name


def _item(name: str, description: str, licence: str, members: dict[str, int]) -> dict[str, Any]:
    """Write a STAC item; the members' own say what each model is."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": re.sub(r"\s+", "-", name),
        "geometry": None,
        "properties": {
            "datetime": now,
            "created": now,
            "title": name,
            "description": description or f"Ensemble {name} of {len(members)} models",
            "license": licence,
            "landweave:format": FORMAT,
            MEMBERS: [{"bundle": folder, "weight": weight} for folder, weight in members.items()],
        },
        "links": [],
        "assets": {
            folder: {
                "href": f"./{folder}/{MANIFEST}",
                "type": "application/geo+json",
                "title": f"Member with weight {weight}",
                "roles": ["metadata"],
            }
            for folder, weight in members.items()
        },
    }


class _MemberFields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    bundle: str = Field(pattern=_FOLDER)  # a plain name: nothing outside the ensemble's folder
    weight: int = Field(default=1, ge=1, le=WEIGHT_SUM_MAX)


class _EnsembleFields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)
    format: int = Field(alias="landweave:format", ge=FORMAT, le=FORMAT)
    members: tuple[_MemberFields, ...] = Field(alias="landweave:members")
    title: str = ""
    description: str = ""
    license: str = "other"


def _load_ensemble(folder: Path, properties: dict[str, Any], *, trust_model: bool) -> Ensemble:
    try:
        fields = _EnsembleFields.model_validate(properties)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise InputError(
            "the manifest does not describe an ensemble",
            where=str(folder / MANIFEST),
            found="; ".join(problems),
        ) from error
    members = tuple(
        Member(load_bundle(folder / m.bundle, trust_model=trust_model), m.weight) for m in fields.members
    )
    name = fields.title or folder.name
    return Ensemble(members, folder, name, fields.description, fields.license)


def _check_weights(members: tuple[Member, ...]) -> None:
    if len(members) < 2:
        raise InputError("an ensemble has two members or more", where="members", found=len(members))
    weights = [m.weight for m in members]
    if min(weights) < 1 or sum(weights) > WEIGHT_SUM_MAX:
        raise InputError(
            "weights are whole numbers from 1, and their sum is bounded so that sums stay exact",
            where="members.weight",
            found=weights,
            limit=f"at most {WEIGHT_SUM_MAX} together",
        )


def _check_pair(first: Bundle, other: Bundle) -> None:
    """Refuse two members that cannot answer one question; names both and the first difference."""
    _check_all("head", [(b, b.head.model_dump(mode="json")) for b in (first, other)])
    _check_all("class names", [(b, sorted(b.classes.names)) for b in (first, other)])
    _check_all("output stride", [(b, b.stride) for b in (first, other)])
    mine, theirs = (b.spec.model_dump(mode="json", exclude=_MAY_DIFFER) for b in (first, other))
    for name, value in mine.items():
        _check_all(f"cube's {name}", [(first, value), (other, theirs[name])])
    spec = first.spec
    whole = spec.reducer in _WHOLE_SPECTRUM or isinstance(spec.reducer, BestPixel) or spec.variability
    if whole and set(spec.bands) != set(other.spec.bands):
        how = "variability" if spec.variability else spec.reducer
        raise InputError(
            "the cube chooses values by looking at all bands together, so members need the same bands",
            where=f"{_called(first)} and {_called(other)}: cube.bands, with {how}",
            found=", ".join(other.spec.bands),
            limit=", ".join(spec.bands),
            mend="train the members on the same bands, or on composites by median, mean or percentile",
        )


def _check_features(bundles: list[Bundle]) -> None:
    """Refuse one name for two things: layers, the index of the phenology, planes stored by other rules."""
    known = [(b, b.spec.features) for b in bundles if b.spec.features is not None]
    _check_all("phenology", [(b, features.phenology) for b, features in known])
    names = dict.fromkeys(layer.name for _, features in known for layer in features.layers)
    for name in names:
        own = [(b, next((x for x in f.layers if x.name == name), None)) for b, f in known]
        _check_all(f"layer {name}", list(own))
    for name in dict.fromkeys(plane.name for b in bundles for plane in b.planes):
        _check_all(
            f"plane {name}", [(b, next((p for p in b.planes if p.name == name), None)) for b in bundles]
        )


def _check_all(what: str, values: list[tuple[Bundle, Any]]) -> None:
    """Refuse values that are known and differ; None fits all."""
    known = [(bundle, value) for bundle, value in values if value is not None]
    for bundle, value in known[1:]:
        if value != known[0][1]:
            raise InputError(
                f"members of an ensemble differ in their {what}",
                where=f"{_called(known[0][0])} and {_called(bundle)}",
                found=value,
                limit=known[0][1],
                mend="make the members on the same cube and class scheme",
            )


def _called(bundle: Bundle) -> str:
    return f"{bundle.name!r} ({bundle.path.name})"
