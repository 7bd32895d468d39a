from __future__ import annotations

import pytest

from cluster.local import LocalSpec
from tests.cluster.conformance import ClusterConformance


class TestLocal(ClusterConformance):
    @pytest.fixture(scope="class")
    def target(self) -> LocalSpec:
        return LocalSpec(n_workers=1, memory_limit="1GiB")
