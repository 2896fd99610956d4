"""A policy that is told everything each time: what one that is told of changes must equal."""

from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.told import Told


class ToldEverything(Told):
    """The whole picture at every step, whatever has changed."""

    def tell(self, cluster: Cluster, now_s: float) -> None:
        cluster.expire_demand(now_s)
        workers = {worker_id: worker.snapshot() for worker_id, worker in cluster.staying()}
        for gone in self._workers.keys() - workers.keys():
            self.autoscaler.remove_worker(gone)
        nodes = set(cluster.nodes.ids())
        for gone in self._nodes - nodes:
            self.autoscaler.remove_node(gone)
        for node_id in nodes:
            node = cluster.nodes.snapshot(node_id)
            assert node is not None
            self.autoscaler.update_node(node)
        self._nodes = nodes
        for worker in workers.values():
            self.autoscaler.update_worker(worker)
        models = {name: model.snapshot() for name, model in cluster.models.items()}
        for gone in self._models.keys() - models.keys():
            self.autoscaler.remove_model(gone)
            self._idle.discard(gone)
        for model in models.values():
            self.autoscaler.update_model(model)
        self._workers, self._models = workers, models
