"""Refine the map of a run that is there: `landweave refine RUN`.

Running it again goes on; a map that was made again in places is refined again there and within reach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.spec import AnyCluster
from engine.store.lease import Lease
from engine.store.ledger import Ledger
from engine.store.objects import absolute
from engine.values.errors import InputError, LandweaveError
from pipelines.config import RunConfig, part_named
from pipelines.map_area import design, part_of
from pipelines.plan_area import tiles_at_once
from pipelines.products import Products, make_products
from pipelines.refine_config import RefineConfig
from pipelines.refine_job import RefineJob, refined_stage
from pipelines.refine_plan import Refining, prepare_refined
from pipelines.refine_sieve import run_refined
from pipelines.run_folder import MAP, read_plan
from pipelines.tile_inputs import area_in
from pipelines.tile_stage import Around, Listener, StageResult, run_options


def told_shares(changed: Mapping[str, float]) -> dict[str, str]:
    """Tell which share of the pixels was changed, and by which step.

    >>> told_shares({"changed": 0.0232, "1_mmu": 0.0232})
    {'changed pixels': '2.32%', 'changed by 1_mmu': '2.32%'}
    """
    return {"changed pixels" if k == "changed" else f"changed by {k}": f"{share:.2%}" for k, share in changed.items()}


@dataclass(frozen=True)
class RefineResult(StageResult):
    """What a refinement did.

    Attributes:
        store: The refined map.
        changed: Name of each step to the share of the map's pixels that it was the last to change.
        products: What was made of the tiles; None after an interruption or when not wanted.
        no_products: Why there are none although they were wanted.
    """

    store: str = ""
    changed: dict[str, float] | None = None
    products: Products | None = None
    no_products: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        shares = told_shares(self.changed or {})
        told = {**super().as_dict(), "refined": self.store, **shares}
        told |= self.products.as_dict() if self.products else {}
        return told | ({"no products": self.no_products} if self.no_products else {})


@dataclass(frozen=True)
class RefineCall:
    """What of a run is refined, and how the run goes.

    Attributes:
        version: Version of the map; None for the map itself.
        resume: False makes every tile again.
        only: Only the tiles that touch this part: ``w,s,e,n``, a vector file, a name.
        trust_model: Open a bundle that may run code, for the products.
        client: A `distributed.Client` to run on; default what the settings say.
    """

    version: str | None = None
    resume: bool = True
    only: str | None = None
    trust_model: bool = False
    client: Any = None

    @property
    def stage(self) -> str:
        """Stage of the map."""
        return MAP if self.version is None else f"{MAP}-{self.version}"


def earlier_settings(run: str, call: RefineCall) -> dict[str, Any] | None:
    """Return the settings of the refinement that a run's folder holds, None where it holds none."""
    try:
        found: dict[str, Any] = read_plan(absolute(run), refined_stage(call.stage))["config"]
    except InputError:
        return None
    return found


def refine_run(
    run: str, config: RefineConfig, call: RefineCall | None = None, listener: Listener | None = None
) -> RefineResult:
    """Refine the map of a run.

    Args:
        run: The run folder.
        config: The steps, and where they run.
        call: What of it, and how.
        listener: Called for each event of the run, with the mean square kilometres of one tile.

    Raises:
        InputError: If the folder holds no such map, or steps and map do not fit together.
        ConflictError: If another run holds the folder.
        BudgetError: If a tile would not fit into a worker.
    """
    call, run_dir = call or RefineCall(), absolute(run)
    plan = read_plan(run_dir, call.stage)
    # The folder may have been moved since: where it is now is what counts.
    made = RunConfig.model_validate({**plan["config"], "out": run_dir, "trust_model": call.trust_model})
    cluster: AnyCluster = config.cluster or made.cluster
    options = run_options(cluster, resume=call.resume)
    with Lease(run_dir, patience_s=options.patience_s, beat_s=options.beat_s) as lease:
        at_once = tiles_at_once(cluster)
        how = Refining(config.refine, lease.epoch, config.tile_px, at_once, options.threads_per_tile)
        job, area = prepare_refined(run_dir, plan, how), area_in(run_dir, plan["outline"])
        part = None if call.only is None else part_of(job, part_named(call.only, made.area))
        around = Around(lease, options, call.client or cluster, listener, part)
        km2, summary = run_refined(job, area, around)
        products, why = None, ""
        if config.products and not (summary.interrupted or summary.refused) and summary.done + summary.reused:
            products, why = _products(made, job)
    return RefineResult(run, km2, (summary,), job.store_url, changed_shares(job), products, why)


def _products(made: RunConfig, job: RefineJob) -> tuple[Products | None, str]:
    """Make the products of a refined map as the run made those of its map; say why where that cannot be."""
    try:
        planned = design(made)
        return make_products(planned.job, planned.area, planned.table, job, made.publish), ""
    except LandweaveError as error:  # the refined map is there; its model or scenes may be gone
        return None, str(error)


def changed_shares(job: RefineJob) -> dict[str, float]:
    """Return the share of the pixels with a class that each step was the last to change, and of all changed."""
    counts: Counter[str] = Counter()
    for record in Ledger(job.run_dir, job.name).records():
        counts.update(record.counts)
    names = ("changed", *job.spec.names)
    return {name: counts[name] / max(1, counts["pixels"]) for name in names}
