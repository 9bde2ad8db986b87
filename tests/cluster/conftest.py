"""A Ray cluster of two nodes on this machine, shared by the tests of the folder."""

import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
if find_spec("ray") is None or find_spec("pyarrow") is None:  # they take seconds to import
    pytest.skip("needs Ray Data: pip install .[ray]", allow_module_level=True)

# a node that is gone is missed soon
_HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 4,
}
_STORE = 100 * 2**20  # bytes


class TwoNodes:
    """A head with the driver, and a second node, which may be killed; one CPU each."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": _STORE, "include_dashboard": False}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**head, "_system_config": _HEALTH}
        )
        self.address: str = self._cluster.address
        self._second: Any = None
        # before there is another node that the driver could belong to
        ray.init(self.address, log_to_driver=False, logging_level=logging.WARNING)
        self.revive()

    def revive(self) -> None:
        """Start the second node if it is not there."""
        if self._second is None:
            self._second = self._cluster.add_node(num_cpus=1, object_store_memory=_STORE)

    def kill_second(self) -> None:
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None

    def end(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def _nodes() -> Iterator[TwoNodes]:
    # as the tests: results depend on the number of threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    nodes = TwoNodes()
    yield nodes
    nodes.end()


@pytest.fixture
def nodes(_nodes: TwoNodes) -> TwoNodes:
    _nodes.revive()
    return _nodes
