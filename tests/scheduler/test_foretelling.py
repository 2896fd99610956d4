"""What cold starts will take is foretold again where the machine is another."""

import asyncio
import json
import logging
from dataclasses import asdict
from pathlib import Path

import pytest
from support.records import model_record
from support.waiting import until_true

from pilotlight_autoscaler import Autoscaler, Tier
from pilotlight_platform.links import Link, Links, links_path
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.cold_starts import ColdStartBook
from pilotlight_platform.scheduler.foretelling import Foretelling
from pilotlight_platform.scheduler.tasks import Tasks
from pilotlight_platform.schemas.model import ModelRecord

GB = 10**9


class Home:
    """A platform's home on a machine, and the model that is live there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.measure(disk=1e9)
        self.record = asyncio.run(self.begin("old").of(model_record("a", nbytes=8 * GB)))

    def measure(self, disk: float) -> None:
        links = Links(0.0, Link(5e9, 1, "copy"), Link(disk, 1, "O_DIRECT"))
        links_path(self.path).write_text(json.dumps(asdict(links)))

    def begin(self, machine: str, record: ModelRecord | None = None) -> Foretelling:
        """As a scheduler does; what it was told of last stands in ``cluster`` and ``steps``."""
        self.steps: list[None] = []
        self.cluster = Cluster({} if record is None else {"a": record})
        book = ColdStartBook(Autoscaler(), machine)
        step = lambda: self.steps.append(None)  # noqa: E731
        return Foretelling(self.path, self.cluster, book, Tasks(), step)

    @property
    def now(self) -> ModelRecord:
        return self.cluster.models["a"].record


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_foretelling_of_the_same_machine_and_links_stands(home: Home) -> None:
    assert not home.begin("old", home.record).renew()
    assert home.now is home.record


def test_foretelling_follows_links_that_were_measured_anew(home: Home) -> None:
    """What people were told at the deploy stays: they compare it with what came."""
    home.measure(disk=4e9)
    assert home.begin("old", home.record).renew()

    assert 7 < home.record.predicted_load_s[Tier.DISK] < 10
    assert 1.5 < home.now.predicted_load_s[Tier.DISK] < 3
    assert home.cluster.models["a"].snapshot().cold_start_s < 3
    assert home.now.predicted == home.record.predicted


def test_foretelling_of_another_machine_is_all_new(home: Home) -> None:
    """Also where its links happen to be the same: what was seen there is forgotten, too."""
    home.begin("new", home.record).renew()
    assert home.now.foretold_on.machine == "new"

    home.measure(disk=4e9)
    home.begin("newer", home.record).renew()
    assert home.now.predicted[Tier.DISK].p50 < home.record.predicted[Tier.DISK].p50


def test_foretelling_of_an_older_version_keeps_what_people_were_told(home: Home) -> None:
    values = home.record.model_dump(mode="json")
    del values["foretold_on"]
    home.measure(disk=4e9)
    home.begin("old", ModelRecord.model_validate(values)).renew()

    assert home.now.predicted == home.record.predicted
    assert home.now.predicted_load_s[Tier.DISK] < 3


def test_foretelling_is_looked_at_when_a_worker_comes(home: Home) -> None:
    """The doctor may have measured while the platform ran."""

    async def run() -> None:
        foretelling = home.begin("old", home.record)
        await foretelling._renew()
        assert home.steps == []
        home.measure(disk=4e9)
        foretelling.renew_soon()
        await until_true(lambda: bool(home.steps))

    asyncio.run(run())

    assert home.now.predicted_load_s[Tier.DISK] < 3


def test_foretelling_of_many_models_lets_others_go_first(home: Home) -> None:
    async def run() -> list[bool]:
        foretelling = home.begin("old", home.record)
        home.cluster.put(model_record("b", nbytes=GB))
        home.measure(disk=4e9)
        renewing = asyncio.create_task(foretelling._renew())
        while not foretold(home.cluster):  # noqa: ASYNC110
            await asyncio.sleep(0)
        between = foretold(home.cluster)
        await renewing
        return [len(between) == 1, len(foretold(home.cluster)) == 2]

    assert asyncio.run(run()) == [True, True]


def test_foretelling_for_two_workers_that_come_at_once_is_done_once(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        foretelling = home.begin("old", home.record)
        home.measure(disk=4e9)
        await asyncio.gather(foretelling._renew(), foretelling._renew())

    with caplog.at_level(logging.INFO, "pilotlight.scheduler"):
        asyncio.run(run())

    assert caplog.text.count("foretold_again models=1") == 1
    assert home.steps == [None]


def foretold(cluster: Cluster) -> list[str]:
    """Models of which it is known what the new links give."""
    rates = {name: model.record.foretold_on.bytes_per_s for name, model in cluster.models.items()}
    return [name for name, each in rates.items() if each.get(Tier.DISK) == 4e9]
