from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.runs.gaps import GAPS_FILE, Gap, read_gaps, write_gaps
from engine.values.errors import DataError

ONE = Gap("r0_c0", "S2A_1", "red", "RetryableError", "throttled")
TWO = Gap("r0_c1", "", "", "quarantined", "its worker died")


def test_stages_keep_their_own_gaps(tmp_path: Path) -> None:
    run_dir = str(tmp_path)
    assert read_gaps(run_dir) == []
    write_gaps(run_dir, "cube", [ONE])
    write_gaps(run_dir, "map", [TWO, ONE])
    assert read_gaps(run_dir, "cube") == [ONE]
    assert read_gaps(run_dir, "map") == [ONE, TWO]
    write_gaps(run_dir, "map", [])
    assert read_gaps(run_dir) == [ONE]
    assert json.loads((tmp_path / GAPS_FILE).read_text())["map"] == []


def test_a_damaged_list_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / GAPS_FILE).write_text("{")
    with pytest.raises(DataError):
        read_gaps(str(tmp_path))
