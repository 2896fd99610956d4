"""Ray under a platform: what a cluster that is joined must have; no Ray is started."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pilotlight_platform import ray_cluster
from pilotlight_platform.errors import MachineError
from pilotlight_platform.settings import Settings


def test_cluster_of_several_nodes_needs_a_redis_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"Alive": True}, {"Alive": False}, {"Alive": True}]
    monkeypatch.setattr(ray_cluster, "ray", SimpleNamespace(nodes=lambda: nodes))

    with pytest.raises(MachineError, match=r"has 2 nodes.*--redis-url"):
        ray_cluster.check_cluster(Settings(home=tmp_path, ray_address="auto"))
