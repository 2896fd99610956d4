"""Which models to look at again, and what the looks have found: who lacks, who leaves."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf

from pilotlight_autoscaler.look import Look
from pilotlight_autoscaler.mirror import Mirror
from pilotlight_autoscaler.model_view import ModelView

_MOST_ALARMS = 64  # and four for each model


class Watch:
    """Looks at the models that were changed or have fallen due, and at no others.

    A model stands in the heap at its ``alarm_s``, no later than it is due: what puts it off, as
    each of its requests does, need not move it.
    """

    def __init__(self, mirror: Mirror, look: Look) -> None:
        self._mirror = mirror
        self._look = look
        self._alarms: list[tuple[float, str]] = []  # heap; one counts if its model says so too
        self.lacking: set[str] = set()
        self.short: set[str] = set()  # of those, the ones that found no worker
        self.leaving: set[str] = set()
        self.rising: set[str] = set()  # their averages rise with time towards too high a load
        self.draining: set[str] = set()
        self.seen: list[ModelView] = []  # in the latest round, by name

    def forget(self, name: str) -> None:
        """The model was removed."""
        for names in (self.lacking, self.short, self.leaving, self.draining, self.rising):
            names.discard(name)

    def round(self, now_s: float) -> bool:
        """Look at what has changed or fallen due; says whether anything is to be done for it."""
        models, alarms = self._mirror.models, self._alarms
        names = self._mirror.changed
        if self.rising:
            names |= self.rising
        while alarms and alarms[0][0] <= now_s:
            view = self._pop()
            if view is None:
                continue
            if view.due_s <= now_s:
                view.due_s = inf
                names.add(view.name)
            else:
                self.expect(view)
        self.seen.clear()
        if not names:
            return False
        acts = False
        for name in sorted(names) if len(names) > 1 else names:
            view = models.get(name)
            if view is None:
                continue
            if self._at(view, now_s) or (self.short and name in self.short):
                acts = True  # also when it lacks nothing any more: the pool may want less
            self.seen.append(view)
        names.clear()
        return acts

    def expect(self, view: ModelView) -> None:
        """Look again when it says that it is due."""
        if view.due_s < view.alarm_s:
            view.alarm_s = view.due_s
            heappush(self._alarms, (view.due_s, view.name))
            if len(self._alarms) > _MOST_ALARMS + 4 * len(self._mirror.models):
                self._clear_out()

    def postpone(self, view: ModelView, now_s: float) -> None:
        """A forecast found no room: try again soon, not at every event."""
        self._look.postpone(view, now_s)
        self.lacking.discard(view.name)
        self.expect(view)

    def _clear_out(self) -> None:
        """Drop the entries that no model stands by any more: far ones would stay for days."""
        views = self._mirror.models.values()
        for view in views:
            view.alarm_s = view.due_s
        # In place: whoever looks at the heap now goes on with it.
        self._alarms[:] = [(view.due_s, view.name) for view in views if view.due_s < inf]
        heapify(self._alarms)

    def due_s(self) -> float:
        """When the next model is due."""
        alarms, models = self._alarms, self._mirror.models
        while alarms:
            at_s, name = alarms[0]
            view = models.get(name)
            if view is not None and view.due_s == at_s == view.alarm_s:
                return at_s
            view = self._pop()
            if view is not None:
                self.expect(view)
        return inf

    def _pop(self) -> ModelView | None:
        """Take the first alarm off: whose it is, None if it stands at another one."""
        at_s, name = heappop(self._alarms)
        view = self._mirror.models.get(name)
        if view is None or view.alarm_s != at_s:
            return None
        view.alarm_s = inf
        return view

    def _at(self, view: ModelView, now_s: float) -> bool:
        """Whether there may be something to do for the model."""
        name, old_occupied = view.name, view.occupied
        for worker_id in view.live:
            self._mirror.workers[worker_id].idle = None
        self._look.at(view, now_s)
        if view.occupied < old_occupied:  # a queue that has gone keeps no replica from leaving
            self._mirror.room_changed = True
        if view.due_s < view.alarm_s:
            self.expect(view)
        lacks = view.want > view.ready + view.attaching
        goes = False
        for at_s in view.leaves_at.values():  # of one replica, mostly
            goes = goes or at_s <= now_s
        drains = bool(view.drains)
        # Mostly nobody is in the sets: asked first, as this runs for each request.
        if lacks:
            self.lacking.add(name)
        elif self.lacking:
            self.lacking.discard(name)
        if goes:
            self.leaving.add(name)
        elif self.leaving:
            self.leaving.discard(name)
        if drains:
            self.draining.add(name)
        elif self.draining:
            self.draining.discard(name)
        if view.rising:
            self.rising.add(name)
        elif self.rising:
            self.rising.discard(name)
        return lacks or goes or drains
