"""The simulated machines, and how many workers run on them."""

from __future__ import annotations

from pilotlight_autoscaler.simulation.errors import InvariantError
from pilotlight_autoscaler.simulation.machines import Node, Worker
from pilotlight_autoscaler.simulation.setting import Pool


class WorkerPool:
    """Nodes, their workers by id, and ids of those that start."""

    def __init__(self, pool: Pool, models: tuple[str, ...]) -> None:
        self.pool = pool
        on_disk = models if pool.on_disk else ()
        self.nodes = [Node(f"n{at:04d}", pool, on_disk) for at in range(pool.nodes)]
        self.workers: dict[str, Worker] = {}
        self.starting: dict[str, int] = {}  # since when
        self._node_of: dict[str, Node] = {}
        self._made = 0
        for _ in range(pool.nodes * pool.workers_per_node):
            self.started(self.begin(0), 0)

    def begin(self, now_us: int) -> str:
        """Ask for a worker on the node that has the fewest; its id."""
        load = dict.fromkeys((node.node_id for node in self.nodes), 0)
        for worker_id in (*self.workers, *self.starting):
            load[self._node_of[worker_id].node_id] += 1
        node = min(self.nodes, key=lambda each: load[each.node_id])
        worker_id = f"w{self._made:04d}"
        self._made += 1
        self._node_of[worker_id] = node
        self.starting[worker_id] = now_us
        return worker_id

    def started(self, worker_id: str, now_us: int) -> Worker:
        del self.starting[worker_id]
        worker = Worker(worker_id, self._node_of[worker_id], self.pool, now_us)
        self.workers[worker_id] = worker
        return worker

    def stop(self, worker_id: str) -> Worker:
        """Take an empty worker away. Raises InvariantError if it holds anything."""
        worker = self.workers.pop(worker_id)
        del self._node_of[worker_id]
        if worker.replicas:
            raise InvariantError(f"{worker_id} is stopped with {', '.join(worker.replicas)}")
        return worker

    @property
    def most(self) -> int:
        return self.pool.nodes * self.pool.workers_per_node
