"""The sample map, made once a session on this machine."""

from __future__ import annotations

import pytest

from tests.cluster.sample import SampleRun, make_sample_run


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> SampleRun:
    return make_sample_run(tmp_path_factory.mktemp("sample-run"))
