"""Fit a store to a new spec without touching a pixel: other names and colours, or a bigger area.

Shards hang on the grid and not on the store's corner, so a bigger store holds the same shards under other
numbers. They are brought together in a store beside the old one, and the two change places::

    map.zarr            c/0/0 ─────┐        1. make .map.zarr.grown with the bigger box
    .map.zarr.grown     c/2/1 ◄────┘        2. link (local) or copy (bucket) each shard to its new number
    .map.zarr.whole                         3. mark it whole, and from here on only go forward
    map.zarr            c/2/1               4. change places
                                            5. remove the mark, then what is left

Locally the fourth step is two renames. A bucket has none: there the group's own ``zarr.json`` is deleted
first, so that readers find no store rather than shards under wrong numbers; then whatever the bigger store
does not have is deleted, all it has is copied, and its ``zarr.json`` comes last. Each step may be repeated:
what is copied from does not change before the mark is gone. So after a kill the next call begins again, or,
where the mark stands, goes on; there is always one whole set of shards.

Writers of earlier runs, which know the old numbers, lose the right to write before anything is moved
(`engine.store.regions.close_all_epochs`). Overviews are left behind: they show the old area.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from engine.store.layout import SPEC_ATTR, create, open_spec, open_store, restate, update_attrs
from engine.store.objects import Folder, join, local_path
from engine.store.regions import close_all_epochs
from engine.store.remote import objects_at
from engine.store.storespec import TIME, Dim, StoreSpec
from engine.values.errors import ConflictError, InputError
from engine.values.grid import Box

Fitted = Literal["new", "same", "restated", "grown"]

_META, _OVERVIEWS = "zarr.json", "overviews"
_OF_OVERVIEWS = "multiscales"


def fit(url: str, spec: StoreSpec) -> Fitted:
    """Make a store, or fit the one that is there, so that it holds all that `spec` asks for.

    A store that covers more than the spec's box keeps its own box. The caller holds the run's lease and has
    opened no epoch yet.

    Args:
        url: Local path, or the URL of a bucket.
        spec: What is asked for.

    Returns:
        What was done.

    Raises:
        ConflictError: If the store differs in more than words and box, naming the fields.
    """
    place = _place(url)
    if place.is_whole():
        _finish(url, place)
    else:
        place.clear()
    try:
        old = open_spec(url)
    except InputError:
        create(url, spec)
        return "new"
    wanted = replace(spec, box=_union(old.box, spec.box))
    _require_same(url, old, wanted)
    if wanted.box != old.box:
        _grow(url, place, old, wanted)
        return "grown"
    if wanted.to_dict() == old.to_dict():
        return "same"
    restate(url, wanted)
    return "restated"


class _Place(Protocol):
    """A store, and the bigger one beside it."""

    grown: str

    def clear(self) -> None:
        """Do away with what is left of the bigger store."""

    def bring(self, moved: Mapping[str, str]) -> None:
        """Bring shards into the bigger store: old name to new name."""

    def mark(self) -> None:
        """Say that the bigger store is whole."""

    def is_whole(self) -> bool:
        """Tell whether it was marked."""

    def swap(self) -> None:
        """Put the bigger store in the place of the old one; may be repeated until `unmark`."""

    def unmark(self) -> None:
        """Remove the mark."""

    def shards(self, array: str) -> list[str]:
        """List the shards of an array as ``3/5`` or ``0/3/5``."""


def _grow(url: str, place: _Place, old: StoreSpec, new: StoreSpec) -> None:
    close_all_epochs(url)
    create(place.grown, new)
    kept = dict(open_store(url)[0].attrs)
    own = {*open_store(place.grown)[0].attrs, SPEC_ATTR, _OF_OVERVIEWS}
    update_attrs(place.grown, {k: v for k, v in kept.items() if k not in own})
    down = (old.box.y0 - new.box.y0) // new.shard_px
    right = (old.box.x0 - new.box.x0) // new.shard_px
    for variable in new.variables:
        base = f"{variable.name}/c"
        names = place.shards(variable.name)
        place.bring({f"{base}/{n}": f"{base}/{_renumbered(n, down, right)}" for n in names})
    place.mark()
    _finish(url, place)


def _finish(url: str, place: _Place) -> None:
    close_all_epochs(url)
    place.swap()
    place.unmark()
    place.clear()


def _renumbered(shard: str, down: int, right: int) -> str:
    """Return a shard's number in a store that begins further up and to the left.

    >>> _renumbered("0/3/5", 2, 1)
    '0/5/6'
    """
    *lead, row, col = shard.split("/")
    return "/".join([*lead, str(int(row) + down), str(int(col) + right)])


def _place(url: str) -> _Place:
    return _Bucket(url) if local_path(url) is None else _Local(url)


class _Local:
    """Folders that change places by renaming; shards are hard links, copies where there are none."""

    def __init__(self, url: str):
        self.root = (local_path(url) or Path(url)).absolute()
        self.grown = str(self._beside("grown"))

    def _beside(self, what: str) -> Path:
        return self.root.parent / f".{self.root.name}.{what}"

    def clear(self) -> None:
        for what in ("grown", "before"):
            shutil.rmtree(self._beside(what), ignore_errors=True)

    def bring(self, moved: Mapping[str, str]) -> None:
        for name, new in moved.items():
            target = Path(self.grown, new)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(self.root / name, target)

    def mark(self) -> None:
        os.sync()
        Folder(str(self.root.parent)).create(self._beside("whole").name, b"")

    def is_whole(self) -> bool:
        return self._beside("whole").exists()

    def swap(self) -> None:
        grown, before = Path(self.grown), self._beside("before")
        if not grown.exists():  # it is in place
            return
        if self.root.exists():
            shutil.rmtree(before, ignore_errors=True)
            self.root.rename(before)
        grown.rename(self.root)

    def unmark(self) -> None:
        self._beside("whole").unlink(missing_ok=True)

    def shards(self, array: str) -> list[str]:
        base = self.root / array / "c"
        return sorted(p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_file())


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # a file system without links
        shutil.copyfile(file, target)


class _Bucket:
    """Prefixes of a bucket; shards are copied by the server itself."""

    def __init__(self, url: str):
        parent, _, name = url.rstrip("/").rpartition("/")
        self.grown, self.parent, self.marker = (
            join(parent, f".{name}.grown"),
            Folder(parent),
            f".{name}.whole",
        )
        self.objects, self.root = objects_at(url)
        self.aside = objects_at(self.grown)[1]

    def clear(self) -> None:
        self.objects.delete([join(self.aside, key) for key in self.objects.keys(self.aside)])

    def bring(self, moved: Mapping[str, str]) -> None:
        self.objects.copy_all({join(self.root, a): join(self.aside, b) for a, b in moved.items()})

    def mark(self) -> None:
        self.parent.create(self.marker, b"whole")

    def is_whole(self) -> bool:
        return self.parent.read(self.marker) is not None

    def swap(self) -> None:
        wanted = [key for key in self.objects.keys(self.aside) if key != _META]
        self.objects.delete([join(self.root, _META)])
        stale = set(self.objects.keys(self.root)) - set(wanted)
        self.objects.delete([join(self.root, key) for key in sorted(stale)])
        for keys in (wanted, [_META]):
            self.objects.copy_all({join(self.aside, key): join(self.root, key) for key in keys})

    def unmark(self) -> None:
        self.parent.remove(self.marker)

    def shards(self, array: str) -> list[str]:
        return self.objects.keys(join(self.root, array, "c"))


def _union(a: Box, b: Box) -> Box:
    return Box(min(a.y0, b.y0), min(a.x0, b.x0), max(a.y1, b.y1), max(a.x1, b.x1))


def _require_same(url: str, old: StoreSpec, new: StoreSpec) -> None:
    """Refuse a store that differs in more than words and box."""
    had, asked = _wordless(old), _wordless(new)
    differs = [k for k in asked if had[k] != asked[k]]
    if differs:
        raise ConflictError(
            "the store exists with another spec",
            where=", ".join([url, *differs]),
            found={k: had[k] for k in differs},
            limit={k: asked[k] for k in differs},
            mend="write to another folder, or delete the store",
        )


def _wordless(spec: StoreSpec) -> dict[str, Any]:
    """Return a spec as JSON values without what people may word anew, and without its box."""
    variables = tuple(replace(v, attrs={}, dims=tuple(map(_unnamed, v.dims))) for v in spec.variables)
    fields = replace(spec, variables=variables, attrs={}, title="").to_dict()
    fields.pop("box")
    return fields


def _unnamed(dim: Dim) -> Dim:
    """Return a dimension with numbers for labels; time's are no words."""
    return dim if dim.name == TIME else replace(dim, labels=tuple(range(len(dim.labels))), attrs={})
