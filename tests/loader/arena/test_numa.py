from __future__ import annotations

import os

import pytest

from pilotlight_loader.arena import numa
from pilotlight_loader.arena.touching import touch_pieces
from pilotlight_loader.errors import ArenaError


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", {0}), ("0-3", {0, 1, 2, 3}), ("0-1,8,10-11", {0, 1, 8, 10, 11}), ("", set())],
)
def test_parse_cpus_reads_the_kernels_lists(text, cpus):
    assert numa.parse_cpus(text) == cpus


def test_node_cpus_are_allowed_ones(monkeypatch, tmp_path):
    mine = min(os.sched_getaffinity(0))
    (tmp_path / "node1").mkdir()
    (tmp_path / "node1" / "cpulist").write_text(f"{mine},4000-4003\n")
    monkeypatch.setattr(numa, "_NODES", tmp_path)

    assert numa.node_cpus(1) == {mine}


def test_node_whose_cpus_are_forbidden_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "node1").mkdir()
    (tmp_path / "node1" / "cpulist").write_text("4000-4003\n")
    monkeypatch.setattr(numa, "_NODES", tmp_path)

    with pytest.raises(ArenaError, match=r"may use no CPU of NUMA node 1 \(4000-4003\)"):
        numa.node_cpus(1)


class _RecordingMemory:
    """Notes on which CPUs its touching threads may run."""

    nbytes = 64 * 1024 * 1024

    def __init__(self) -> None:
        self.cpus: list[set[int]] = []

    def touch(self, start: int, end: int) -> None:
        self.cpus.append(os.sched_getaffinity(0))


def test_touch_runs_on_the_nodes_cpus_only(monkeypatch, tmp_path):
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one CPU is no choice")
    near = max(allowed)
    (tmp_path / "node1").mkdir()
    (tmp_path / "node1" / "cpulist").write_text(f"{near}\n")
    monkeypatch.setattr(numa, "_NODES", tmp_path)
    memory = _RecordingMemory()

    assert list(touch_pieces(memory, 0, threads=4, numa_node=1)) == [memory.nbytes]
    assert memory.cpus == [{near}] * 4
    assert os.sched_getaffinity(0) == allowed
