"""The scheduler's Serve deployment: its parts put together, and what others may ask of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cache

import ray
from ray import serve

from pilotlight_autoscaler import Autoscaler, AutoscalingConfig, PoolConfig
from pilotlight_platform.logs import log_to
from pilotlight_platform.machine import machine_name
from pilotlight_platform.names import APP, WORKER
from pilotlight_platform.scheduler.attendance import Attendance
from pilotlight_platform.scheduler.cluster import Cluster, now
from pilotlight_platform.scheduler.cold_starts import ColdStartBook
from pilotlight_platform.scheduler.decision_log import DecisionLog, hold_record
from pilotlight_platform.scheduler.floors import Floors
from pilotlight_platform.scheduler.foretelling import Foretelling
from pilotlight_platform.scheduler.live_models import LiveModels
from pilotlight_platform.scheduler.memory import Memory, read_state
from pilotlight_platform.scheduler.orders import Orders
from pilotlight_platform.scheduler.pool_keeper import PoolKeeper, head_node_id
from pilotlight_platform.scheduler.pool_keeping import PoolKeeping
from pilotlight_platform.scheduler.pool_settings import PoolSettings, saved_pool
from pilotlight_platform.scheduler.preparing import Preparing
from pilotlight_platform.scheduler.requests import Requests
from pilotlight_platform.scheduler.scaling import scaling_status
from pilotlight_platform.scheduler.status import model_statuses, worker_statuses
from pilotlight_platform.scheduler.steps import Steps
from pilotlight_platform.scheduler.table import Table
from pilotlight_platform.scheduler.tasks import Tasks
from pilotlight_platform.scheduler.told import Told
from pilotlight_platform.schemas.cluster import Route, RoutingChange, RoutingTable, WorkerInfo
from pilotlight_platform.schemas.cold_start import ColdAnswer
from pilotlight_platform.schemas.decision import Explanation, PoolStatus, ScalingStatus
from pilotlight_platform.schemas.model import ModelRecord, ModelStatus, WorkerStatus
from pilotlight_platform.settings import Settings
from pilotlight_platform.store.redis_store import RedisStore, read_learned, read_models, read_pool
from pilotlight_platform.worker_pool import WorkerPool


class Scheduler:
    """Ray Serve deployment, one replica. The only writer of models, orders and the store."""

    def __init__(self, settings: Settings, redis_url: str, life: str) -> None:
        log_to(settings.log_dir, "scheduler")
        store = RedisStore(redis_url)
        cluster = self._cluster = Cluster(read_models(redis_url))
        pool = saved_pool(read_pool(redis_url), life) or settings.pool_config
        told = self._told = Told(Autoscaler(pool))
        machine = machine_name()
        learned = read_state(read_learned(redis_url), now(), machine)
        if learned is not None:
            told.restore(learned)
        told.tell(cluster, now())
        keeper = PoolKeeper(head_node_id(ray.nodes()))
        self._keeper = keeper
        keeper.want = None if learned is None else learned.pool.target
        self._memory = Memory(told.autoscaler.state, store.put_learned, machine=machine)
        self._log = DecisionLog(store.append_decisions, store.decisions)
        self._table = Table(cluster)
        tasks = Tasks()
        self._cold_starts = ColdStartBook(told.autoscaler, machine)
        foretelling = Foretelling(settings.home, cluster, self._cold_starts, tasks, self._step)
        foretelling.renew()
        pool_keeping = PoolKeeping(keeper, cluster, store.publish_pool, self._step)
        preparing = Preparing(cluster, _workers, tasks)
        orders = Orders(cluster, told, _workers, tasks, self._step)
        self._steps = Steps(
            cluster, told, pool_keeping, orders, self._table, self._log, self._memory
        )
        self._attendance = Attendance(
            cluster, told, _workers, preparing, foretelling, orders, pool_keeping, self._step
        )
        self._requests = Requests(cluster, told, self._table, self._step)
        self._pool = PoolSettings(settings, pool, life, store.put_pool, tasks, self._pool_changed)
        self._floors = Floors(cluster, settings, lambda: self._pool.config)
        tasks.spawn(self._floors.warn())
        self._models = LiveModels(
            cluster, store, preparing, self._floors, tasks, foretelling.of, self._show
        )

    # ── workers ──────────────────────────────────────────────────────────────────────────────

    async def attend(self, info: WorkerInfo) -> None:
        """A worker's introduction; returns when the worker's reports have stopped."""
        await self._attendance.attend(info)

    # ── gateways ─────────────────────────────────────────────────────────────────────────────

    async def place(self, gateway: str, name: str, queued: int, running: int) -> Route:
        """Note that *queued* requests wait at *gateway*, and answer where they can go.

        *running* are those that have a slot there already, which no report may show yet.
        Waits up to 1 s for a first replica; the route may come without one, and says why then.
        Raises ModelNotFoundError, AttachError if the model cannot be attached anywhere.
        """
        return await self._requests.place(gateway, name, queued, running)

    async def cold_answers(self, answers: Sequence[ColdAnswer]) -> None:
        """A gateway's news of cold starts that have given their first token."""
        records = {name: model.record for name, model in self._cluster.models.items()}
        if self._cold_starts.answered(answers, records):
            self._memory.changed()

    async def watch(self) -> AsyncIterator[RoutingChange]:
        """The routing table of now, then its changes."""
        seen = RoutingTable(-1)
        async for table in self._table.values():
            yield table.since(seen)
            seen = table

    # ── admin ────────────────────────────────────────────────────────────────────────────────

    async def put_model(self, record: ModelRecord) -> int:
        """Make *record* live on every worker; returns the table's version that shows it.

        Raises StoreError, DeployError, FloorsTooHighError; what was live before stays so then.
        """
        return await self._models.put(record)

    async def delete_model(self, name: str) -> int:
        """Take *name* out of service at once; running streams finish.

        Raises ModelNotFoundError, StoreError.
        """
        return await self._models.delete(name)

    async def configure(self, name: str, config: AutoscalingConfig) -> int:
        """Give *name* other autoscaling settings in place: no replica starts anew for it.

        Returns the table's version that shows it. Raises ModelNotFoundError, FloorsTooHighError,
        StoreError.
        """
        return await self._models.configure(name, config)

    async def check_floors(self, name: str, config: AutoscalingConfig) -> None:
        """Before a bake: what can be said without the bytes. Raises FloorsTooHighError."""
        await self._floors.check_model(name, config)

    async def checkpoints_in_use(self) -> set[str]:
        """Directories that must not be removed."""
        return self._cluster.checkpoints_in_use()

    async def save(self) -> None:
        """Save what was learned; the platform is about to stop. Raises StoreError."""
        try:
            await self._memory.save()
        finally:
            await self._log.flush()

    async def explain(self, name: str, since_s: float) -> Explanation:
        """How *name* stands, and what was decided. Raises ModelNotFoundError, StoreError."""
        self._cluster.model(name)
        self._told.tell(self._cluster, now())
        reason = self._told.autoscaler.explain(name, self._told.clock(now()))
        decisions = await self._log.of(name, since_s)
        return Explanation(model=name, now=hold_record(reason, now()), decisions=decisions)

    async def explain_pool(self, since_s: float) -> Explanation:
        """How the worker pool stands, and what was decided on it. Raises StoreError."""
        reason = self._told.autoscaler.explain_pool(self._told.clock(now()))
        decisions = await self._log.of(reason.subject, since_s)
        return Explanation(model="", now=hold_record(reason, now()), decisions=decisions)

    async def scaling(self, name: str) -> ScalingStatus:
        """What the settings of *name* come to now. Raises ModelNotFoundError."""
        self._cluster.model(name)
        self._told.tell(self._cluster, now())
        return scaling_status(self._told.autoscaler, name, now())

    async def configure_pool(self, config: PoolConfig) -> PoolStatus:
        """Other bounds of the pool, in place.

        Raises PoolUnchangeableError, FloorsTooHighError, StoreError.
        """
        self._pool.check(config)
        await self._floors.check_pool(config)
        await self._pool.configure(config)
        return await self.pool()

    async def pool(self) -> PoolStatus:
        pool = self._pool
        return PoolStatus(
            config=pool.config,
            fixed=pool.fixed,
            most_workers=pool.most_workers,
            workers=len(self._cluster.workers),
            target=pool.most_workers if pool.fixed else self._keeper.want,
        )

    async def models(self) -> list[ModelStatus]:
        return [self._cold_starts.shown(each) for each in model_statuses(self._cluster, now())]

    async def workers(self) -> list[WorkerStatus]:
        return worker_statuses(self._cluster)

    # ── inside ───────────────────────────────────────────────────────────────────────────────

    def _step(self) -> None:
        self._steps.take()

    def _pool_changed(self, config: PoolConfig) -> None:
        self._told.autoscaler.update_pool(config)
        self._step()

    def _show(self) -> int:
        """Decide again, and publish at once; the table's version that shows it."""
        self._steps.take(routes_changed=True)
        return self._table.version


@cache
def _workers() -> WorkerPool:
    # At the first call: workers hold a handle to the scheduler, so theirs exists only after ours.
    return WorkerPool(serve.get_deployment_handle(WORKER, app_name=APP))
