"""The scheduler: observe, decide, apply. It acts on events; the policy says when to look again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any

import ray
from ray import serve

from pilotlight_autoscaler import Attach, Autoscaler, AutoscalingConfig, Detach, Drain
from pilotlight_platform.errors import (
    AttachError,
    DeployError,
    EvictionRefusedError,
    ModelNotFoundError,
    PlatformError,
    ReplicaGoneError,
    StoreError,
    WorkerLostError,
)
from pilotlight_platform.latest import Latest
from pilotlight_platform.logs import log_to
from pilotlight_platform.names import APP, WORKER
from pilotlight_platform.scheduler.cluster import Cluster, Model, WorkerState, now
from pilotlight_platform.scheduler.decision_log import DecisionLog, hold_record
from pilotlight_platform.scheduler.memory import Memory, read_state
from pilotlight_platform.scheduler.pool_keeper import PoolKeeper
from pilotlight_platform.scheduler.pool_keeping import PoolKeeping
from pilotlight_platform.scheduler.scaling import scaling_status
from pilotlight_platform.scheduler.status import model_statuses, worker_statuses
from pilotlight_platform.scheduler.told import Told
from pilotlight_platform.schemas.cluster import (
    AttachOrder,
    Route,
    RoutingChange,
    RoutingTable,
    WorkerInfo,
    WorkerReport,
)
from pilotlight_platform.schemas.decision import Explanation, ScalingStatus
from pilotlight_platform.schemas.model import ModelRecord, ModelStatus, Revision, WorkerStatus
from pilotlight_platform.settings import Settings
from pilotlight_platform.store.redis_store import RedisStore, read_learned, read_models
from pilotlight_platform.worker_pool import WorkerPool, within

logger = logging.getLogger("pilotlight.scheduler")

_PLACE_WAIT_S = 1.0  # a gateway asks again while requests wait
_ATTACH_TIMEOUT_S = 600.0  # 13 GB from a slow disk; a dead worker is noticed at once
_CALL_TIMEOUT_S = 30.0
_PREPARE_TIMEOUT_S = 120.0
_JOIN_TIMEOUT_S = 30.0  # Serve lists a new replica for routing a little after it has started
_JOIN_RETRY_S = 0.05
_RETRY_MAX_S = 30.0
_TABLE_DELAY_S = 0.2
_REFUSED_WAIT_S = 0.2  # a worker's report is at most 0.1 s late
_SETTLE_MIN_S = 0.5
_FAILED_STEP_S = 1.0


class Scheduler:
    """Ray Serve deployment, one replica. The only writer of models, orders and the store."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        log_to(settings.log_dir, "scheduler")
        self._store = RedisStore(redis_url)
        self._cluster = Cluster(read_models(redis_url))
        self._told = Told(Autoscaler(settings.pool_config))
        learned = read_state(read_learned(redis_url), now())
        if learned is not None:
            self._told.restore(learned)
        keeper = PoolKeeper(ray.get_runtime_context().get_node_id())
        keeper.want = None if learned is None else learned.pool.target
        self._pool_keeping = PoolKeeping(
            keeper, self._cluster, self._store.publish_pool, self._step
        )
        self._memory = Memory(self._told.autoscaler.state, self._store.put_learned)
        self._log = DecisionLog(self._store.append_decisions, self._store.decisions)
        self._lessons = 0  # that the memory was told of
        self._told.tell(self._cluster, now())
        self._table = Latest(self._cluster.routing_table(0))
        self._wake: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._published: object = None
        self._publishing: asyncio.TimerHandle | None = None
        self._placed = asyncio.Event()  # set and replaced whenever replicas change
        self._pool: WorkerPool | None = None
        self._unsettled: set[str] = set()  # models whose row in the store may not be what is live
        self._changing = asyncio.Lock()  # of models: memory and store change together

    # ── workers ──────────────────────────────────────────────────────────────────────────────

    async def attend(self, info: WorkerInfo) -> None:
        """A worker's introduction; returns when the worker's reports have stopped."""
        logger.info("worker_joined id=%s pid=%d", info.worker_id, info.pid)
        try:
            while await self._followed(info):
                pass
        except PlatformError as error:
            logger.warning("worker_lost id=%s reason=%s", info.worker_id, error)
        finally:
            if self._cluster.workers.pop(info.worker_id, None) is not None:
                self._step()

    async def _followed(self, info: WorkerInfo) -> bool:
        """Follow until its reports stop; True if they were closed, and it stays after all."""
        following = self._pool_keeping.following
        task = following[info.worker_id] = asyncio.create_task(self._follow(info))
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            following.pop(info.worker_id, None)
        if not task.cancelled():
            task.result()  # raises what it raised
            return False
        return await self._pool_keeping.stays(info.worker_id)

    async def _follow(self, info: WorkerInfo) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _JOIN_TIMEOUT_S
        while True:
            try:
                async for report in self._workers().reports(info.worker_id):
                    self._observe(info, report)
                return
            except ReplicaGoneError:
                if info.worker_id in self._cluster.workers or loop.time() > deadline:
                    raise
                await asyncio.sleep(_JOIN_RETRY_S)

    def _observe(self, info: WorkerInfo, report: WorkerReport) -> None:
        worker = self._cluster.workers.get(info.worker_id)
        if worker is None:
            worker = self._cluster.workers[info.worker_id] = WorkerState(info)
            self._spawn(self._prepare_all(worker))
        worker.observe(report)
        self._note_cold_starts(worker)
        for replica in report.replicas:
            if replica.ongoing:
                self._told.arrived(replica.model, now(), 1, warm=True)
            elif replica.idle_since_s is not None and self._cluster.at_rest(replica.model):
                self._told.rested(replica.model, replica.idle_since_s)
        for replica in worker.drained():
            worker.draining.discard(replica.revision_id)
            self._send_detach(worker, replica.revision_id)
        self._step()

    def _note_cold_starts(self, worker: WorkerState) -> None:
        for model, tier, seconds in worker.cold_started():
            self._told.cold_started(model, tier, seconds)

    async def _prepare_all(self, worker: WorkerState) -> None:
        for revision_id, path in self._cluster.live_revisions().items():
            try:
                await self._prepare(worker, revision_id, path)
            except WorkerLostError:
                return
            except (PlatformError, TimeoutError) as error:
                logger.error("prepare_failed revision=%s reason=%s", revision_id, error)

    async def _prepare(self, worker: WorkerState, revision_id: str, path: str) -> None:
        prepared = self._workers().prepare(worker.info.worker_id, revision_id, path)
        await within(_PREPARE_TIMEOUT_S, prepared)

    def _workers(self) -> WorkerPool:
        # Lazily: workers hold a handle to the scheduler, so theirs exists only after ours.
        if self._pool is None:
            self._pool = WorkerPool(serve.get_deployment_handle(WORKER, app_name=APP))
        return self._pool

    # ── requests ─────────────────────────────────────────────────────────────────────────────

    async def place(self, gateway: str, name: str, queued: int, running: int) -> Route:
        """Note that *queued* requests wait at *gateway*, and answer where they can go.

        *running* are those that have a slot there already, which no report may show yet.
        Waits up to 1 s for a first replica; the route may come without one, and says why then.
        Raises ModelNotFoundError, AttachError if the model cannot be attached anywhere.
        """
        model = self._model(name)
        more = model.want(gateway, queued, now())
        if more:
            self._told.arrived(name, now(), more)
        self._step()
        try:
            async with asyncio.timeout(_PLACE_WAIT_S):
                while not (found := self._cluster.replicas().get(name, ())) and queued:
                    self._raise_if_hopeless(name)
                    await self._placed.wait()
        except TimeoutError:
            pass
        model = self._model(name)  # it may have been deleted meanwhile, or deployed again
        route = self._cluster.route(name, found)
        if not self._cluster.has_room(name, queued, running):
            return route
        # Taken back here: the gateway's own message would be handled beside the first prefill.
        model.want(gateway, 0, now())
        return replace(route, settled=True)

    def _model(self, name: str) -> Model:
        model = self._cluster.models.get(name)
        if model is None:
            raise ModelNotFoundError(f"There is no model {name!r}: `pilotlight list` shows them.")
        return model

    def _raise_if_hopeless(self, name: str) -> None:
        model = self._model(name)
        unplaced = self._cluster.unplaced.get(name)
        if unplaced is not None and unplaced.permanent:
            raise AttachError(f"Model {name!r}: {unplaced.reason}")
        wait_s = model.retry_at_s - now()
        if wait_s > 0:
            raise AttachError(f"{model.last_error} (next try in {wait_s:.0f} s)")

    async def watch(self) -> AsyncIterator[RoutingChange]:
        """The routing table of now, then its changes."""
        seen = RoutingTable(-1)
        async for table in self._table.values():
            yield table.since(seen)
            seen = table

    # ── admin ────────────────────────────────────────────────────────────────────────────────

    async def put_model(self, record: ModelRecord) -> int:
        """Make *record* live on every worker; returns the table's version that shows it.

        Raises StoreError, DeployError; the model that was live before stays so then.
        """
        return await self._unbroken(self._put_model(record))

    async def _put_model(self, record: ModelRecord) -> int:
        # In use from here on: who tidies up meanwhile must not take it for a left-over.
        with self._cluster.arriving(record.revision.path):
            async with self._changing:
                self._check_size(record)
                await self._prepare_everywhere(record.revision)
                return await self._publish_model(record)

    def _check_size(self, record: ModelRecord) -> None:
        largest = self._cluster.largest_worker_bytes()
        nbytes = record.revision.nbytes
        if largest is not None and nbytes > largest:
            raise DeployError(
                f"the model has {nbytes / 1e9:.1f} GB of weights, the largest worker holds "
                f"{largest / 1e9:.1f} GB (PILOTLIGHT_WORKER_CAPACITY_BYTES)"
            )

    async def _prepare_everywhere(self, revision: Revision) -> None:
        workers = list(self._cluster.workers.values())
        outcomes = await asyncio.gather(
            *(self._prepare(worker, revision.id, revision.path) for worker in workers),
            return_exceptions=True,
        )
        for outcome in outcomes:
            # A worker that has died meanwhile is no reason against the model.
            if isinstance(outcome, AttachError | TimeoutError):
                raise DeployError(f"a worker cannot prepare it: {outcome}") from outcome

    async def _publish_model(self, record: ModelRecord) -> int:
        name = record.spec.name
        old = self._cluster.models.get(name)
        if old is not None:
            record = record.model_copy(update={"created_at_s": old.record.created_at_s})
        await self._write(name, self._store.put_model(record), record.revision.path)
        model = self._cluster.models[name] = Model(record)
        if old is not None:
            model.demand = old.demand
            self._retire(old.record.revision)
        for worker in self._cluster.workers.values():  # the ones that came meanwhile
            self._spawn(self._prepare_late(worker, record.revision))
        self._step(routes_changed=True)
        return self._table.value.version

    async def delete_model(self, name: str) -> int:
        """Take *name* out of service at once; running streams finish.

        Raises ModelNotFoundError, StoreError.
        """
        return await self._unbroken(self._delete_model(name))

    async def _delete_model(self, name: str) -> int:
        async with self._changing:
            model = self._model(name)
            await self._write(name, self._store.delete_model(name))
            self._cluster.models.pop(name, None)
            self._retire(model.record.revision)
            self._step(routes_changed=True)
            return self._table.value.version

    async def _unbroken(self, change: Coroutine[Any, Any, int]) -> int:
        """Carry *change* out even if whoever asked for it goes away half-way."""
        task = asyncio.get_running_loop().create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _write(self, name: str, write: Coroutine[Any, Any, None], path: str = "") -> None:
        """Write to the store. A write that got no answer may still be carried out: undo it."""
        try:
            await write
        except StoreError:
            if name not in self._unsettled:
                self._unsettled.add(name)
                self._spawn(self._settle(name, path))
            raise

    async def _settle(self, name: str, path: str) -> None:
        """Write what is live under *name* until the store takes it; *path* is kept until then."""
        delay_s = _SETTLE_MIN_S
        with self._cluster.arriving(path):
            while True:
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _RETRY_MAX_S)
                async with self._changing:
                    model = self._cluster.models.get(name)
                    try:
                        if model is None:
                            await self._store.delete_model(name)
                        else:
                            await self._store.put_model(model.record)
                    except StoreError as error:
                        logger.warning("unsettled model=%s reason=%s", name, error)
                    else:
                        self._unsettled.discard(name)
                        return

    async def checkpoints_in_use(self) -> set[str]:
        """Directories that must not be removed."""
        return self._cluster.checkpoints_in_use()

    def _retire(self, revision: Revision) -> None:
        """Drop the skeletons of a revision that is no longer live."""
        if revision.id not in self._cluster.live_revisions():
            for worker in self._cluster.workers.values():
                self._spawn(self._forget(worker.info.worker_id, revision.id))

    async def _prepare_late(self, worker: WorkerState, revision: Revision) -> None:
        try:
            await self._prepare(worker, revision.id, revision.path)
        except (PlatformError, TimeoutError) as error:
            logger.error("prepare_failed revision=%s reason=%s", revision.id, error)

    async def _forget(self, worker_id: str, revision_id: str) -> None:
        try:
            await within(_CALL_TIMEOUT_S, self._workers().forget(worker_id, revision_id))
        except (PlatformError, TimeoutError) as error:
            logger.warning("forget_failed worker=%s reason=%s", worker_id, error)

    async def save(self) -> None:
        """Save what was learned; the platform is about to stop. Raises StoreError."""
        try:
            await self._memory.save()
        finally:
            await self._log.flush()

    async def configure(self, name: str, config: AutoscalingConfig) -> int:
        """Give *name* other autoscaling settings in place: no replica starts anew for it.

        Returns the table's version that shows it. Raises ModelNotFoundError, StoreError.
        """
        return await self._unbroken(self._configure(name, config))

    async def _configure(self, name: str, config: AutoscalingConfig) -> int:
        async with self._changing:
            model = self._model(name)
            spec = model.record.spec.model_copy(update={"autoscaling": config})
            changed = {"spec": spec, "updated_at_s": now()}
            record = model.record.model_copy(update=changed)
            await self._write(name, self._store.put_model(record), record.revision.path)
            model.record = record
            self._step(routes_changed=True)
            return self._table.value.version

    async def explain(self, name: str, since_s: float) -> Explanation:
        """How *name* stands, and what was decided. Raises ModelNotFoundError, StoreError."""
        self._model(name)
        self._told.tell(self._cluster, now())
        reason = self._told.autoscaler.explain(name, self._told.clock(now()))
        decisions = await self._log.of(name, since_s)
        return Explanation(model=name, now=hold_record(reason, now()), decisions=decisions)

    async def scaling(self, name: str) -> ScalingStatus:
        """What the settings of *name* come to now. Raises ModelNotFoundError."""
        self._model(name)
        self._told.tell(self._cluster, now())
        return scaling_status(self._told.autoscaler, name, now())

    async def models(self) -> list[ModelStatus]:
        return model_statuses(self._cluster, now())

    async def workers(self) -> list[WorkerStatus]:
        return worker_statuses(self._cluster)

    # ── observe → decide → apply ─────────────────────────────────────────────────────────────

    def _step(self, *, routes_changed: bool = False) -> None:
        """A boundary: what one model's values break must not end the others' service."""
        try:
            self._decide_and_apply(routes_changed=routes_changed)
        except Exception:
            logger.exception("step_failed")
            self._look_again(now() + _FAILED_STEP_S)

    def _decide_and_apply(self, *, routes_changed: bool) -> None:
        routes_changed |= self._pool_keeping.update()
        decision = self._told.decide(self._cluster, now())
        if decision.pool is not None:
            self._pool_keeping.decided(decision.pool)
        self._cluster.unplaced = {unplaced.model: unplaced for unplaced in decision.unplaced}
        for attach in decision.attach:
            self._order_attach(attach)
        for detach in decision.detach:
            self._order_detach(detach)
        for drain in decision.drain:
            self._order_drain(drain)
        self._log.note(decision, now())
        if self._told.lessons != self._lessons:
            self._lessons = self._told.lessons
            self._memory.changed()
        wakes = (decision.wake_at_s, self._cluster.demand_expires_s())
        self._look_again(min((at_s for at_s in wakes if at_s is not None), default=None))
        # A replica that goes must not get requests any more: who is sent there comes back.
        self._publish(routes_changed or bool(decision.detach or decision.drain))

    def _look_again(self, wake_at_s: float | None) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if wake_at_s is not None:
            # At least 1 ms ahead: the wall clock may lag a little behind the loop's.
            delay_s = max(0.001, wake_at_s - now())
            self._wake = asyncio.get_running_loop().call_later(delay_s, self._step)

    def _publish(self, routes_changed: bool) -> None:
        self._placed.set()
        self._placed = asyncio.Event()
        if routes_changed:
            self._publish_table(force=True)
        elif self._publishing is None:
            # Soon, not at once: who waits for a replica has it from `place`, and what is sent
            # meanwhile runs on the cores that compute the first token.
            loop = asyncio.get_running_loop()
            self._publishing = loop.call_later(_TABLE_DELAY_S, self._publish_table)

    def _publish_table(self, *, force: bool = False) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        routes = (self._cluster.replicas(), tuple(self._cluster.workers))
        if force or routes != self._published:
            self._published = routes
            self._table.set(self._cluster.routing_table(self._table.value.version + 1))

    def _order_attach(self, attach: Attach) -> None:
        model = self._cluster.models[attach.model]
        revision = model.record.revision
        worker = self._cluster.workers[attach.worker_id]
        order = AttachOrder(attach.model, revision.id, revision.path, revision.nbytes, attach.evict)
        worker.orders[revision.id] = (order, now())
        logger.info(
            "attach model=%s worker=%s reason=%s", attach.model, attach.worker_id, attach.reason
        )
        self._spawn(self._attach(worker, model, order))

    async def _attach(self, worker: WorkerState, model: Model, order: AttachOrder) -> None:
        began_s = now()
        worker_id = worker.info.worker_id
        try:
            report = await within(_ATTACH_TIMEOUT_S, self._workers().attach(worker_id, order))
        except EvictionRefusedError as error:
            # The report that shows the busy victim is under way: decide on that one.
            logger.info("attach_refused model=%s reason=%s", order.model, error)
            await asyncio.sleep(_REFUSED_WAIT_S)
        except (WorkerLostError, ReplicaGoneError) as error:
            logger.warning("worker_lost id=%s reason=%s", worker_id, error)
            if self._cluster.workers.get(worker_id) is worker:
                del self._cluster.workers[worker_id]
        except (PlatformError, TimeoutError) as error:
            model.failures += 1
            model.retry_at_s = now() + min(_RETRY_MAX_S, 0.5 * 2 ** min(model.failures, 10))
            model.last_error = str(error) or "attaching took too long"
            logger.error("attach_failed model=%s reason=%s", order.model, model.last_error)
        else:
            model.failures, model.retry_at_s, model.last_error = 0, 0.0, None
            worker.starting[order.revision_id] = began_s
            worker.observe(report)
            self._note_cold_starts(worker)
        finally:
            worker.orders.pop(order.revision_id, None)
            self._step()

    def _order_detach(self, detach: Detach) -> None:
        logger.info(
            "detach model=%s worker=%s reason=%s", detach.model, detach.worker_id, detach.reason
        )
        self._send_detach(self._cluster.workers[detach.worker_id], detach.revision_id)

    def _send_detach(self, worker: WorkerState, revision_id: str) -> None:
        worker.leaving.add(revision_id)
        self._spawn(self._detach(worker, revision_id))

    def _order_drain(self, drain: Drain) -> None:
        logger.info(
            "drain model=%s worker=%s reason=%s", drain.model, drain.worker_id, drain.reason
        )
        self._cluster.workers[drain.worker_id].draining.add(drain.revision_id)

    async def _detach(self, worker: WorkerState, revision_id: str) -> None:
        try:
            detached = self._workers().detach(worker.info.worker_id, revision_id)
            worker.observe(await within(_CALL_TIMEOUT_S, detached))
        except (PlatformError, TimeoutError) as error:
            logger.warning("detach_failed revision=%s reason=%s", revision_id, error)
        finally:
            worker.leaving.discard(revision_id)
            self._step()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
