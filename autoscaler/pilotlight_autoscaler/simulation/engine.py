"""The event loop: a trace, a setting and a policy in, accounts out. Deterministic; no clock.

The policy is the same object that decides in production and is told the same: what changes, at once
or after a tick, and then asked.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable
from heapq import heappop
from operator import attrgetter
from typing import Protocol

from pilotlight_autoscaler.protocol import Policy
from pilotlight_autoscaler.simulation.actuator import Actuator
from pilotlight_autoscaler.simulation.agenda import NEVER_US, Agenda
from pilotlight_autoscaler.simulation.errors import InvariantError, SettingError
from pilotlight_autoscaler.simulation.machines import Model, Replica
from pilotlight_autoscaler.simulation.meters import Meters
from pilotlight_autoscaler.simulation.reports import Reports
from pilotlight_autoscaler.simulation.setting import Setting
from pilotlight_autoscaler.simulation.trace import US_PER_S, Trace
from pilotlight_autoscaler.snapshot import DRAINING, READY

_PATIENCE_US = 86_400 * US_PER_S  # after the horizon: what is not answered by then is lost
_PROGRESS_EVERY = 1 << 14  # events

OnProgress = Callable[[float], None]
_ongoing = attrgetter("ongoing")


class Adversary(Protocol):
    """Sends requests that depend on what the policy does."""

    def stopped(self, model: int, now_us: int) -> Iterable[tuple[int, int, int]]:
        """A replica has gone: further requests as (arrival, first token, service), microseconds."""


class Simulation:
    """One run. Raises SettingError if trace and setting do not fit."""

    def __init__(
        self,
        trace: Trace,
        setting: Setting,
        policy: Policy,
        *,
        adversary: Adversary | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        if trace.names != tuple(spec.name for spec in setting.models):
            raise SettingError("the setting's models are not those of the trace, in its order")
        self.meters = Meters(trace.horizon_us)
        self._trace = trace
        self._policy = policy
        self._adversary = adversary
        self._on_progress = on_progress
        self._arrival_us = trace.arrival_us[:]  # an adversary's requests come behind
        self._first_us = trace.first_token_us[:]
        self._service_us = trace.service_us[:]
        self._models = [
            Model(index, spec, setting.pool) for index, spec in enumerate(setting.models)
        ]
        self._agenda = Agenda()
        self._actuator = Actuator(
            setting,
            {model.spec.name: model for model in self._models},
            policy,
            self._agenda,
            self.meters,
            on_ready=self._ready,
            on_gone=self._gone,
        )
        self._reports = Reports(policy, self._agenda, setting, self._arrival_us)
        self._added = array("i")  # models of the adversary's requests
        self._running = self._queued = 0
        self._delay_us = round(setting.metric_delay_s * US_PER_S)

    def run(self) -> Meters:
        """Replay the trace and what it leaves behind.

        Raises InvariantError if a request is lost, a worker overfull or a busy replica stopped.
        """
        self._introduce()
        agenda, meters = self._agenda, self.meters
        heap, arrival_us, model = agenda.heap, self._trace.arrival_us, self._trace.model
        count, index, models = len(arrival_us), 0, self._models
        on_progress = self._on_progress
        next_us = arrival_us[0] if count else NEVER_US
        for events in itertools.count():
            event_us = heap[0][0] if heap else NEVER_US
            ask_us = agenda.decide_us
            if next_us < event_us and next_us < ask_us:
                self._arrive(next_us, index, models[model[index]])
                index += 1
                next_us = arrival_us[index] if index < count else NEVER_US
            elif event_us <= ask_us:
                if event_us == NEVER_US or (index >= count and self._over(event_us)):
                    break
                _, _, act, about = heappop(heap)
                act(event_us, about)
            else:
                if index >= count and self._over(ask_us):
                    break
                self._decide(ask_us)
            if meters.arrived != meters.done + self._running + self._queued:
                raise InvariantError("a request is lost")
            if on_progress is not None and events % _PROGRESS_EVERY == 0:
                on_progress(index / max(1, count))
        if meters.done != meters.arrived:
            raise InvariantError(f"{meters.arrived - meters.done} requests were never answered")
        self._actuator.close(meters.horizon_us)
        return meters

    def replayed(self) -> Trace:
        """The trace with what an adversary has added."""
        if not self._added:
            return self._trace
        model = self._trace.model + self._added
        order = sorted(range(len(model)), key=self._arrival_us.__getitem__)
        return Trace(
            self._trace.names,
            array("q", (self._arrival_us[at] for at in order)),
            array("i", (model[at] for at in order)),
            array("q", (self._first_us[at] for at in order)),
            array("q", (self._service_us[at] for at in order)),
            self._trace.horizon_us,
        )

    def _over(self, now_us: int) -> bool:
        beyond_us = now_us - self.meters.horizon_us
        return beyond_us > 0 and (
            self.meters.done == self.meters.arrived or beyond_us > _PATIENCE_US
        )

    def _introduce(self) -> None:
        for node in self._actuator.pool.nodes:
            self._policy.update_node(node.snapshot())
        for worker in self._actuator.pool.workers.values():
            self._policy.update_worker(worker.snapshot())
        for model in self._models:
            self._policy.update_model(model.snapshot())
            self._policy.deployed(model.name)
        self._agenda.decide_by(0)

    # --- requests

    def _added_arrives(self, now_us: int, about: tuple[int, Model]) -> None:
        self._arrive(now_us, *about)

    def _arrive(self, now_us: int, index: int, model: Model) -> None:
        meters = self.meters
        meters.arrived += 1
        opens = model.unfinished == 0
        meters.sessions += opens
        model.unfinished += 1
        self._policy.arrived(model.name, now_us / US_PER_S)
        ready = model.ready
        if not ready:
            meters.cold += 1
            meters.cold_sessions += opens
        elif not model.queue:
            replica = ready[0] if len(ready) == 1 else min(ready, key=_ongoing)
            if replica.ongoing < model.max_ongoing:
                self._start(now_us, index, replica)
                self._reports.load(replica, now_us)
                return
        model.queue.append(index)
        self._queued += 1
        if self._delay_us:
            self._agenda.at(now_us + self._delay_us, self._queue_seen, model)
        else:
            self._reports.queue_grew(model, now_us)

    def _queue_seen(self, now_us: int, model: Model) -> None:
        self._reports.queue_grew(model, now_us)

    def _start(self, now_us: int, index: int, replica: Replica) -> None:
        model = replica.model
        if replica.phase is not READY or replica.ongoing >= model.max_ongoing:
            raise InvariantError(f"{model.name} takes a request that it must not take")
        meters = self.meters
        if replica.idle_since_us is not None:
            meters.idled(replica, now_us)
            meters.used(replica)
            replica.idle_since_us = None
            replica.busy_since_us = now_us
        replica.ongoing += 1
        self._running += 1
        waited_us = now_us - self._arrival_us[index]
        if waited_us:
            meters.waited_us += waited_us
        meters.ttft_us.append(waited_us + self._first_us[index])
        self._agenda.at(now_us + self._service_us[index], self._finish, (replica, index))

    def _finish(self, now_us: int, about: tuple[Replica, int]) -> None:
        replica, index = about
        model = replica.model
        replica.ongoing -= 1
        self._running -= 1
        model.unfinished -= 1
        self.meters.done += 1
        service_s = self._service_us[index] / US_PER_S
        self._policy.finished(model.name, now_us / US_PER_S, model.unfinished, service_s)
        if model.queue and replica.phase is READY:
            self._serve_queue(now_us, replica)
        if replica.ongoing:
            self._reports.load(replica, now_us)
            return
        self.meters.served(replica, now_us)
        replica.idle_since_us = now_us
        if replica.phase is DRAINING:
            self._actuator.remove(now_us, replica)
            self._reports.soon(now_us)
        else:
            self._reports.idle(replica, now_us)

    def _serve_queue(self, now_us: int, replica: Replica) -> None:
        queue, room = replica.model.queue, replica.model.max_ongoing - replica.ongoing
        for _ in range(min(room, len(queue))):
            self._queued -= 1
            self._start(now_us, queue.popleft(), replica)
        self._reports.queue(replica.model)

    def _ready(self, now_us: int, replica: Replica) -> None:
        if replica.model.queue:
            self._serve_queue(now_us, replica)
        self._reports.ready(replica, now_us)

    def _gone(self, now_us: int, replica: Replica) -> None:
        if self._adversary is None:
            return
        model = replica.model
        for arrival_us, first_us, service_us in self._adversary.stopped(model.index, now_us):
            self._agenda.at(arrival_us, self._added_arrives, (len(self._arrival_us), model))
            self._arrival_us.append(arrival_us)
            self._first_us.append(first_us)
            self._service_us.append(service_us)
            self._added.append(model.index)

    def _decide(self, now_us: int) -> None:
        self._agenda.decide_us = NEVER_US
        self.meters.decisions += 1
        self._actuator.apply(now_us, self._reports.decide(now_us))
