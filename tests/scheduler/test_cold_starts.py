"""Cold starts foretold and seen, in the scheduler's state."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from support.records import model_record

from pilotlight_autoscaler import Autoscaler, ModelSnapshot, Tier
from pilotlight_platform.links import Link, Links, StoreLink
from pilotlight_platform.scheduler.cold_starts import (
    ColdStartBook,
    StartFacts,
    read_start_facts,
)
from pilotlight_platform.schemas.cold_start import ColdAnswer
from pilotlight_platform.schemas.model import ModelRecord

FACTS = StartFacts({Tier.DISK: 1e9}, 4)


def book(*records: ModelRecord) -> ColdStartBook:
    autoscaler = Autoscaler()
    for record in records:
        revision = record.revision
        autoscaler.update_model(
            ModelSnapshot(record.spec.name, revision.id, revision.nbytes, record.spec.autoscaling)
        )
    return ColdStartBook(autoscaler)


def slow(name: str = "m", seconds: float = 1.0, **change: Any) -> ColdAnswer:
    values = {"revision_id": f"{name}-1", "tier": Tier.HOST, "spans": {"prefill": 0.9}}
    return ColdAnswer(model=name, seconds=seconds, **{**values, **change})


def test_book_tells_predicted_and_actual_side_by_side() -> None:
    record = model_record(nbytes=10**9, cold_start_slo={"p95": "300ms"})
    kept = book(record)
    record = kept.foretell(record, FACTS, [record])
    assert kept.answered([slow(seconds=0.2), slow(seconds=0.4)], {"m": record}) == 2
    status = kept.status(record)

    assert status.predicted[Tier.DISK].p50 > 1.0 > status.predicted[Tier.HOST].p50
    assert (status.actual[Tier.HOST].count, status.all.seconds.p95) == (2, 0.4)
    assert status.slo_met is False


def test_book_predicts_a_new_revision_from_what_others_took() -> None:
    record, other = model_record(nbytes=100), model_record("other", nbytes=100)
    kept = book(record, other)
    before = kept.foretell(record, FACTS, [record, other]).predicted
    kept.answered([slow("other", spans={"prefill": 7.0})], {"m": record, "other": other})
    after = kept.foretell(record, FACTS, [record, other]).predicted

    assert before[Tier.HOST].p50 < 1 < 7 <= after[Tier.HOST].p50


def test_book_keeps_a_prediction_apart_from_what_came_later() -> None:
    record = model_record(nbytes=100)
    kept = book(record)
    record = kept.foretell(record, FACTS, [])
    kept.answered([slow(seconds=50.0)] * 30, {"m": record})

    assert kept.status(record).predicted[Tier.HOST].p95 < 1


def test_book_does_not_count_for_another_revision() -> None:
    record = model_record()
    kept = book(record)
    kept.answered([slow(revision_id="m-0")], {"m": record})
    kept.answered([slow("gone")], {"m": record})

    assert kept.status(record).all is None
    assert kept.status(record).slo_met is None


def test_book_shows_nothing_of_the_revision_before() -> None:
    record = model_record()
    kept = book(record)
    kept.answered([slow()], {"m": record})
    revision = record.revision.model_copy(update={"id": "m-2"})
    replaced = record.model_copy(update={"revision": revision})

    assert kept.status(record).all is not None
    assert kept.status(replaced).all is None
    assert kept.foretell(replaced, FACTS, []).predicted[Tier.HOST].p50 < 1  # not the second it took


def test_book_logs_an_slo_that_is_missed_once(caplog: pytest.LogCaptureFixture) -> None:
    record = model_record(cold_start_slo={"p95": 0.3})
    kept = book(record)
    with caplog.at_level(logging.INFO, "pilotlight.scheduler"):
        kept.answered([slow(seconds=0.1), slow(), slow()], {"m": record})
    missed = [each for each in caplog.messages if "cold_start_slo_missed" in each]

    assert len(missed) == 1
    assert "model=m" in missed[0]
    assert "count=2" in missed[0]


def test_book_refuses_times_that_are_none(caplog: pytest.LogCaptureFixture) -> None:
    record = model_record()
    kept = book(record)

    assert kept.answered([slow(seconds=-1.0)], {"m": record}) == 0
    assert "seconds to a first token" in caplog.text


def test_facts_are_read_from_links_and_config(tmp_path: Path) -> None:
    store = StoreLink(9e7, 1, "8 connections", 0.01, 0.0)
    links = Links(0.0, Link(5e9, 1, "copy"), Link(2e9, 1, "O_DIRECT"), stores={"s3://b": store})
    (tmp_path / "links.json").write_text(json.dumps(asdict(links)))
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 24}')

    assert read_start_facts(tmp_path, tmp_path) == StartFacts(
        {Tier.HOST: 5e9, Tier.DISK: 2e9, Tier.REMOTE: 9e7}, 24
    )


@pytest.mark.parametrize("config", ["", "[]", '{"num_hidden_layers": "many"}'])
def test_facts_that_cannot_be_read_are_not_known(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)

    assert read_start_facts(tmp_path, tmp_path) == StartFacts({}, 1)


def test_record_of_an_older_version_has_no_prediction() -> None:
    old = model_record().model_dump(mode="json")
    del old["predicted"], old["predicted_load_s"]

    assert ModelRecord.model_validate(old).predicted == {}


def test_book_foretells_the_part_that_the_policy_measures() -> None:
    record = model_record(nbytes=2 * 10**9)
    record = book(record).foretell(record, FACTS, [])
    read_s = 2.0  # at FACTS' rate of the disk

    assert read_s < record.predicted_load_s[Tier.DISK] < record.predicted[Tier.DISK].p50
    assert record.predicted_load_s[Tier.HOST] < 0.1
