"""A refinement by the real command, killed with all its processes: the same command ends with the same map."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

from engine.refine.chain import RefineSpec
from engine.refine.whole import refine_map
from tests.faults.processes import family, start, wait_for
from tests.pipelines.refine_sample import SCHEME, make_run

pytestmark = pytest.mark.slow

STEPS = [{"step": "majority"}, {"step": "mmu", "min_px": 5}, {"step": "fill", "within_px": 2}]


@contextmanager
def _command(run: str) -> Iterator[subprocess.Popen[str]]:
    """Start `landweave refine`; end it and all below it in the end."""
    config = Path(run).parent / "refine.yaml"
    settings = {"steps": STEPS, "products": False, "cluster": {"kind": "local", "n_workers": 1}}
    config.write_text(yaml.safe_dump(settings))
    process = start("pipelines", "refine", run, "--config", str(config), "--json")
    try:
        yield process
    finally:
        for member in family(process.pid):
            member.kill()
        process.communicate()


def _recorded(run: str) -> int:
    return len(list(Path(run, "ledger", "refined").rglob("r*_c*.*.json")))


def _ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told: dict[str, Any] = json.loads(out)
    return told


def test_a_refinement_that_is_killed_goes_on_and_ends_with_the_same_pixels(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    total = len(list(Path(run, "ledger", "map").rglob("r*_c*.*.json")))
    with _command(run) as process:
        wait_for(lambda: _recorded(run) >= 2 or process.poll() is not None, "two tiles", 60)
        for member in family(process.pid):
            member.kill()
        process.wait(20)
    done = _recorded(run)
    assert (process.returncode, 2 <= done < total) == (-9, True)
    with _command(run) as process:
        told = _ended(process)
    assert told["tiles"] == f"{total - done} made, {done} kept, 0 failed, 0 left of {total}"
    there, refined = (xr.open_zarr(f"{run}/{name}.zarr", chunks=None).load() for name in ("map", "refined"))
    wanted = refine_map(there, RefineSpec.model_validate({"steps": STEPS}), SCHEME)
    for name in ("label", "confidence", "changed"):
        np.testing.assert_array_equal(refined[name], wanted[name], err_msg=name)
