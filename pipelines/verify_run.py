"""Read every tile of every stage again and compare it with its record; name what differs. Look for seams.

::

    planned tiles ──► one bit each ──┐
    ledger, folder by folder ────────┴─► without record | without plan | read back by a few threads ──► differs

    map.zarr ──► the seam statistic, from nothing but the stored pixels ──► families and places that show a seam

Memory holds one ledger folder (256 tiles), one bit for each planned tile, and the tiles that are being read;
for seams a few hundred bytes for each line of pixels.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.inference.seams import SeamReport
from engine.store.layout import open_spec
from engine.store.lease import Lease
from engine.store.ledger import BLOCK_TILES, Ledger, TileRecord, block_of
from engine.store.objects import join
from engine.store.regions import read_back
from engine.store.storespec import StoreSpec
from engine.values.errors import DataError, InputError, RetryableError
from engine.values.grid import TileKey
from pipelines.plan_tiles import tiles_of
from pipelines.run_folder import all_plans
from pipelines.seam_check import stored_seams

LISTED = 1000
"""Tiles that are named of each kind; all are counted."""

THREADS = 4
"""Tiles read at once: reading and decoding release the interpreter."""

Listener = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Difference:
    """A tile that is not what its record says.

    Attributes:
        stage: Stage of the run.
        tile: Which tile.
        variable: Of the store; empty where the whole tile is concerned.
        why: What was found against what was expected.
    """

    stage: str
    tile: str
    variable: str
    why: str


@dataclass
class Verified:
    """What a verification found; of each kind at most 1000 tiles are named.

    Attributes:
        read: Tiles that were read.
        planned: Tiles of the plans.
        differing: Tiles that are not what their records say.
        differ: What differs, variable by variable.
        redone: Tiles whose records were removed, so that they are made again.
        missing: Planned tiles without a record, by stage.
        unplanned: Records without a planned tile, by stage.
        listed: Names of the tiles without a record and without a plan, as ``stage tile``.
        stores: Where a store does not fit its plan.
        seams: The seam statistic of each map, by stage.
        no_seams: Why there is none of a map.
    """

    read: int = 0
    planned: int = 0
    differing: int = 0
    differ: list[Difference] = field(default_factory=list)
    redone: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    unplanned: Counter[str] = field(default_factory=Counter)
    listed: dict[str, list[str]] = field(default_factory=lambda: {"missing": [], "unplanned": []})
    stores: list[str] = field(default_factory=list)
    seams: dict[str, SeamReport] = field(default_factory=dict)
    no_seams: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """4 something differs or a map shows a seam, 3 tiles have no record, 0 all there and as recorded.

        A seam counts as much as a damaged tile: whoever asks whether a map may be passed on, mostly a
        script that sees nothing but this number, must not be told yes. The bytes may be those recorded all
        the same; the findings say which of the two it is.
        """
        if self.differing or self.stores or any(report.seam for report in self.seams.values()):
            return 4
        return 3 if self.missing.total() else 0

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "tiles read": self.read,
            "tiles planned": self.planned,
            "tiles that differ": self.differing,
            "differ": [asdict(d) for d in self.differ],
            "records removed": self.redone,
            "without record": self.missing.total(),
            "without plan": self.unplanned.total(),
            "tiles without record": self.listed["missing"],
            "records without plan": self.listed["unplanned"],
            "stores that do not fit": self.stores,
            "seams": {stage: report.to_dict() for stage, report in self.seams.items()},
            "seams not looked for": self.no_seams,
            "exit code": self.exit_code,
        }

    def list_tiles(self, kind: str, stage: str, tiles: Sequence[TileKey]) -> None:
        """Count tiles of a kind, and name the first ones."""
        {"missing": self.missing, "unplanned": self.unplanned}[kind][stage] += len(tiles)
        room = LISTED - len(self.listed[kind])
        self.listed[kind] += [f"{stage} {tile}" for tile in itertools.islice(tiles, max(0, room))]


def verify_run(run: str, *, redo: bool = False, listener: Listener | None = None) -> Verified:
    """Read every recorded tile of every stage back and compare it with its record.

    A tile that a run makes again meanwhile is no difference.

    Args:
        run: Run folder, local or any fsspec URL.
        redo: Remove the records of tiles that differ, so that the next `map` or `cube` makes them again;
            holds the folder's lease meanwhile.
        listener: Called with tiles read, tiles planned and the stage.

    Raises:
        InputError: If it is no run folder.
        ConflictError: If records are to be removed while another run holds the folder.
    """
    plans = all_plans(run)
    if not redo:
        return _Verifier(run, plans, None, listener).all()
    with Lease(run) as lease:
        return _Verifier(run, plans, lease, listener).all()


class _Verifier:
    """One verification in progress."""

    def __init__(
        self, run: str, plans: list[dict[str, Any]], lease: Lease | None, listener: Listener | None
    ) -> None:
        self.run, self.plans, self.lease = run, plans, lease
        self.listener = listener or (lambda done, total, stage: None)
        self.found = Verified()

    def all(self) -> Verified:
        planned = {plan["stage"]: _Planned(tiles_of(self.run, plan)) for plan in self.plans}
        self.found.planned = sum(p.count for p in planned.values())
        with ThreadPoolExecutor(THREADS, "landweave-verify") as pool:
            for plan in self.plans:
                self._stage(plan, planned[plan["stage"]], pool)
        for plan in self.plans:
            self._seams(plan)
        return self.found

    def _seams(self, plan: dict[str, Any]) -> None:
        """Look for seams in a map that is as recorded; a cube has no windows."""
        if self.found.differing:  # a torn shard cannot be read, and a damaged tile is told already
            self.found.no_seams[plan["stage"]] = "tiles differ from their records"
            return
        try:
            report = stored_seams(self.run, plan)
        except InputError as error:  # the store is not there, or is no map: told already
            self.found.no_seams[plan["stage"]] = str(error)
            return
        if report is not None:
            self.found.seams[plan["stage"]] = report

    def _stage(self, plan: dict[str, Any], planned: _Planned, pool: ThreadPoolExecutor) -> None:
        try:
            spec = open_spec(join(self.run, plan["store"]))
        except InputError as error:
            self.found.stores.append(f"{plan['stage']}: {error}")
            return
        self.found.stores += [f"{plan['stage']}: {text}" for text in _misfits(plan, spec)]
        check = _Check(join(self.run, plan["store"]), spec, plan)
        recorded = self._recorded(plan["stage"], planned)
        for record, wrong in _in_order(pool, check.differences, recorded):
            self.found.read += 1
            if wrong:
                self._differs(plan["stage"], record, wrong)
            self.listener(self.found.read, self.found.planned, plan["stage"])
        self.found.list_tiles("missing", plan["stage"], planned.left(LISTED))
        self.found.missing[plan["stage"]] = planned.left_count

    def _recorded(self, stage: str, planned: _Planned) -> Iterator[TileRecord]:
        """Yield the records of planned tiles, folder by folder; note the others."""
        ledger = Ledger(self.run, stage)
        for name in ledger.folder.names():
            records = ledger.block(name)
            yield from (record for tile, record in records.items() if planned.take(tile))
            self.found.list_tiles("unplanned", stage, [t for t in records if not planned.knows(t)])

    def _differs(self, stage: str, record: TileRecord, wrong: list[Difference]) -> None:
        ledger = Ledger(self.run, stage)
        standing = ledger.done(record.tile, record.key)
        if standing is None or standing.checksums != record.checksums or standing.epoch != record.epoch:
            return  # a run is making it again
        self.found.differing += 1
        self.found.differ += wrong[: max(0, LISTED - len(self.found.differ))]
        if self.lease is not None:
            self.lease.check()
            ledger.clear(record.tile, self.lease.epoch)
            self.found.redone += 1


@dataclass(frozen=True)
class _Check:
    """Compares tiles of one store with their records."""

    url: str
    spec: StoreSpec
    plan: dict[str, Any]

    def differences(self, record: TileRecord) -> list[Difference]:
        """Read a tile back, variable by variable."""
        stage, tile = self.plan["stage"], str(record.tile)
        box = record.tile.box(self.plan["tile_px"]) & self.spec.box
        steps = tuple(self.plan["steps"]) if self.plan.get("steps") else None
        found = []
        for name, checksum in record.checksums.items():
            try:
                read_back(self.url, box, {name: checksum}, steps)
            except (DataError, InputError) as error:
                if isinstance(error.__cause__, RetryableError | ConnectionError | TimeoutError):
                    raise error.__cause__ from None  # nothing is known of the tile
                why = f"{error.what}: found {error.found}, expected {error.limit or 'a whole shard'}"
                found.append(Difference(stage, tile, name, why))
        return found


class _Planned:
    """The tiles of a plan, one bit each, taken away one by one."""

    def __init__(self, tiles: Iterable[TileKey]) -> None:
        self._all: dict[str, int] = {}
        self.count = 0
        for tile in tiles:
            block = block_of(tile)
            self._all[block] = self._all.get(block, 0) | _bit(tile)
            self.count += 1
        self._left = dict(self._all)
        self.left_count = self.count

    def knows(self, tile: TileKey) -> bool:
        """Tell whether a tile is planned."""
        return bool(self._all.get(block_of(tile), 0) & _bit(tile))

    def take(self, tile: TileKey) -> bool:
        """Take a planned tile away; False for one that is not planned."""
        if not self.knows(tile):
            return False
        block = block_of(tile)
        self.left_count -= bool(self._left[block] & _bit(tile))
        self._left[block] &= ~_bit(tile)
        return True

    def left(self, most: int) -> list[TileKey]:
        """Return the first tiles that were not taken."""
        return list(itertools.islice(self._walk_left(), most))

    def _walk_left(self) -> Iterator[TileKey]:
        for name, bits in self._left.items():
            corner = TileKey.parse(name)
            for row, col in itertools.product(range(BLOCK_TILES), repeat=2) if bits else ():
                tile = TileKey(corner.row * BLOCK_TILES + row, corner.col * BLOCK_TILES + col)
                if bits & _bit(tile):
                    yield tile


def _bit(tile: TileKey) -> int:
    return 1 << (tile.row % BLOCK_TILES * BLOCK_TILES + tile.col % BLOCK_TILES)


def _in_order(
    pool: ThreadPoolExecutor,
    check: Callable[[TileRecord], list[Difference]],
    records: Iterator[TileRecord],
) -> Iterator[tuple[TileRecord, list[Difference]]]:
    """Check records with some threads, a few ahead of the one that is told."""
    waiting: deque[tuple[TileRecord, Future[list[Difference]]]] = deque()
    for record in records:
        waiting.append((record, pool.submit(check, record)))
        if len(waiting) > 2 * THREADS:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


def _misfits(plan: dict[str, Any], spec: StoreSpec) -> Iterator[str]:
    """Say where a store does not fit the plan that its tiles were made by."""
    grid, tile_px = plan["grid"], plan["tile_px"]
    stored = {
        "crs": spec.grid.crs,
        "resolution_yx": list(spec.grid.resolution_yx),
        "anchor_xy": list(spec.grid.anchor_xy),
    }
    for name, value in stored.items():
        wanted = list(grid[name]) if isinstance(grid[name], list | tuple) else grid[name]
        if wanted != value:
            yield f"the grid's {name} is {value}, the plan has {wanted}"
    if tile_px % spec.shard_px:
        yield f"tiles of {tile_px} px are not whole shards of {spec.shard_px} px"
    steps = plan.get("steps")
    if steps and "time" in spec.dims and steps[1] > (length := len(spec.dims["time"].labels)):
        yield f"the store has {length} time steps, the plan fills {steps[0]}..{steps[1] - 1}"
