"""How long cold starts were to take, how long they took, and whether a model's SLO is met."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pilotlight_autoscaler import Autoscaler, InputError, Tier
from pilotlight_autoscaler.first_tokens import FirstTokens
from pilotlight_autoscaler.planning.forecast import forecast
from pilotlight_autoscaler.planning.knowledge import Knowledge, Neighbour, Weights
from pilotlight_platform.links import read_links
from pilotlight_platform.schemas.cold_start import ColdAnswer, ColdStartStatus, ForetoldOn
from pilotlight_platform.schemas.model import ModelRecord, ModelStatus

logger = logging.getLogger("pilotlight.scheduler")

_TIERS = (Tier.HOST, Tier.DISK)  # where a cold start's weights come from, once they are baked


@dataclass(frozen=True, slots=True)
class StartFacts:
    """What the files say that a forecast needs."""

    bytes_per_s: dict[Tier, float]  # measured links
    layers: int


def read_start_facts(home: Path, checkpoint: Path) -> StartFacts:
    """Reads two small files; what cannot be read is not known."""
    layers = 1
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config")
        number = (text if isinstance(text, dict) else config).get("num_hidden_layers")
        if isinstance(number, int) and number > 0:
            layers = number
    except (OSError, ValueError, AttributeError):
        pass
    return StartFacts(read_rates(home), layers)


def read_rates(home: Path) -> dict[Tier, float]:
    """What this machine's links were measured to give; empty if nothing was."""
    links = read_links(home)
    floors = {} if links is None else links.floors()
    return {Tier(tier): rate for tier, rate in floors.items() if tier in tuple(Tier)}


class ColdStartBook:
    """Values only; the autoscaler remembers what was seen."""

    def __init__(self, autoscaler: Autoscaler, machine: str = "") -> None:
        self._autoscaler = autoscaler
        self._machine = machine  # that this process runs on
        self._met: dict[str, bool] = {}  # by model, as it was last logged

    def foretell(
        self, record: ModelRecord, facts: StartFacts, others: Iterable[ModelRecord]
    ) -> ModelRecord:
        """*record* with what its cold starts will take, from what is known as it goes live."""
        revision = record.revision
        known = Knowledge(
            facts.bytes_per_s,
            self._tokens(record).by_tier(),
            tuple(
                Neighbour(other.revision.compute_nbytes, tokens.by_tier())
                for other in others
                if other.revision.id != revision.id
                and (tokens := self._tokens(other)).all is not None
            ),
        )
        weights = Weights(revision.nbytes, revision.compute_nbytes, revision.nbytes, facts.layers)
        found = {tier: forecast(weights, tier, known) for tier in _TIERS}
        return record.model_copy(
            update={
                "predicted": {tier: each.seconds for tier, each in found.items()},
                "predicted_load_s": {tier: each.load_s for tier, each in found.items()},
                "foretold_on": self._here(facts.bytes_per_s),
            }
        )

    def is_stale(self, record: ModelRecord, bytes_per_s: dict[Tier, float]) -> bool:
        """Whether *record* was foretold on another machine, or with links measured otherwise."""
        return record.foretold_on != self._here(bytes_per_s)

    def foretell_again(
        self, record: ModelRecord, facts: StartFacts, others: Iterable[ModelRecord]
    ) -> ModelRecord:
        """What the policy goes by, as it is now. What people were told at the deploy stays, unless
        it was of another machine, whose cold starts are forgotten, too.
        """
        found = self.foretell(record, facts, others)
        if record.foretold_on.machine in ("", self._machine):
            return found.model_copy(update={"predicted": record.predicted})
        return found

    def _here(self, bytes_per_s: dict[Tier, float]) -> ForetoldOn:
        return ForetoldOn(machine=self._machine, bytes_per_s=bytes_per_s)

    def answered(self, answers: Iterable[ColdAnswer], models: dict[str, ModelRecord]) -> int:
        """Remember them; returns how many were of models that are live."""
        noted = 0
        self._met = {name: met for name, met in self._met.items() if name in models}
        for answer in answers:
            record = models.get(answer.model)
            if record is None:
                continue
            try:
                self._autoscaler.answered_cold(
                    answer.model, answer.revision_id, answer.tier, answer.seconds, answer.spans
                )
            except InputError as error:  # not told of yet, or a clock that was set back
                logger.warning("cold_start_refused reason=%s", error)
                continue
            noted += 1
            self._log_verdict(record)
        return noted

    def status(self, record: ModelRecord) -> ColdStartStatus:
        """Raises nothing: of a model that is not known yet, nothing was seen."""
        tokens = self._tokens(record)
        slo = record.spec.autoscaling.cold_start_slo
        seen = tokens.all
        return ColdStartStatus(
            slo=slo,
            predicted=record.predicted,
            actual=dict(tokens.by_tier()),
            all=seen,
            slo_met=None if slo is None or seen is None else slo.met_by(seen.seconds),
        )

    def shown(self, status: ModelStatus) -> ModelStatus:
        return status.model_copy(update={"cold_starts": self.status(status.record)})

    def _tokens(self, record: ModelRecord) -> FirstTokens:
        """Those of the record's revision; empty for another one's."""
        try:
            found = self._autoscaler.view(record.spec.name).learned.first_tokens
        except InputError:
            return FirstTokens()
        return found if found.revision_id == record.revision.id else FirstTokens()

    def _log_verdict(self, record: ModelRecord) -> None:
        """Once per change: missed, and met again."""
        name, status = record.spec.name, self.status(record)
        met = status.slo_met
        if met is None or status.all is None or self._met.get(name, True) == met:
            return
        self._met[name] = met
        logger.log(
            logging.INFO if met else logging.WARNING,
            "cold_start_slo_%s model=%s count=%d p50=%.3f p95=%.3f p99=%.3f slo=%s",
            "met" if met else "missed",
            name,
            status.all.count,
            status.all.seconds.p50,
            status.all.seconds.p95,
            status.all.seconds.p99,
            "" if status.slo is None else status.slo.bounds(),
        )
