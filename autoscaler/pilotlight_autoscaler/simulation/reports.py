"""What a policy is told of a simulation, and when it is asked."""

from __future__ import annotations

from array import array
from math import ceil, inf

from pilotlight_autoscaler.decision import Decision
from pilotlight_autoscaler.protocol import Policy
from pilotlight_autoscaler.simulation.agenda import Agenda
from pilotlight_autoscaler.simulation.machines import Model, Replica
from pilotlight_autoscaler.simulation.setting import Setting
from pilotlight_autoscaler.simulation.trace import US_PER_S

_LONG_S = 1e9


class Reports:
    """Loads and queues that the policy does not know; told before it decides."""

    def __init__(
        self, policy: Policy, agenda: Agenda, setting: Setting, arrival_us: array[int]
    ) -> None:
        self._policy = policy
        self._agenda = agenda
        self._arrival_us = arrival_us  # by request, as queues have them
        self._replicas: list[Replica] = []
        self._queues: list[Model] = []
        self._tick_us = round(setting.tick_s * US_PER_S)
        self._load_us = round(setting.load_report_s * US_PER_S)

    def load(self, replica: Replica, now_us: int) -> None:
        """A busy replica has more or less to do; one that is to be told of waits no longer."""
        if replica.reported:
            self._changed(replica)
            self._decide_by(replica, now_us, self._load_us)

    def idle(self, replica: Replica, now_us: int) -> None:
        """A replica has ended its last request; one known to be patient about can wait."""
        if replica.reported or not replica.patient:
            self._changed(replica)
            self._decide_by(replica, now_us, self._tick_us)

    def ready(self, replica: Replica, now_us: int) -> None:
        """A replica is there."""
        self._policy.update_replica(replica.worker.worker_id, replica.snapshot())
        self._decide_by(replica, now_us, self._tick_us)

    def queue(self, model: Model) -> None:
        if model.queue_reported:
            model.queue_reported = False
            self._queues.append(model)

    def queue_grew(self, model: Model, now_us: int) -> None:
        """At once if a request waits where none did, or where there is no replica."""
        self.queue(model)
        first = len(model.queue) == 1 or not model.ready
        self._agenda.decide_by(now_us if first else now_us + self._tick_us)

    def soon(self, now_us: int) -> None:
        """Ask although there is nothing to tell."""
        self._agenda.decide_by(now_us + self._tick_us)

    def decide(self, now_us: int) -> Decision:
        """Tell, ask, and note when to ask again."""
        policy = self._policy
        for replica in self._replicas:
            replica.reported = True
            if replica.present:
                idle_us = replica.idle_since_us
                policy.update_load(
                    replica.worker.worker_id,
                    replica.model.name,
                    replica.ongoing,
                    None if idle_us is None else idle_us / US_PER_S,
                )
        self._replicas.clear()
        for model in self._queues:
            model.queue_reported = True
            oldest_s = self._arrival_us[model.queue[0]] / US_PER_S if model.queue else None
            policy.update_queue(model.name, len(model.queue), oldest_s)
        self._queues.clear()
        decision = policy.decide(now_us / US_PER_S)
        if decision.wake_at_s is not None and decision.wake_at_s < inf:
            self._agenda.decide_by(max(now_us + 1, ceil(decision.wake_at_s * US_PER_S)))
        return decision

    def _decide_by(self, replica: Replica, now_us: int, delay_us: int) -> None:
        """What comes and goes where there is room need only be noted, if the policy says so."""
        agenda, by_us = self._agenda, now_us + delay_us
        replica.patient = False
        if by_us >= agenda.decide_us:
            return
        patience_s = self._policy.patience_s(replica.model.name)
        if patience_s > 0:  # rounded as a wake-up at that time is
            replica.patient = True
            patience_s = patience_s if patience_s < _LONG_S else _LONG_S
            patient_us = ceil((now_us / US_PER_S + patience_s) * US_PER_S)
            if patient_us > by_us:
                by_us = patient_us
        agenda.decide_by(by_us)

    def _changed(self, replica: Replica) -> None:
        if replica.reported:
            replica.reported = False
            self._replicas.append(replica)
