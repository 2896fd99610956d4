"""What several test folders share: tiny checkpoints, and the one running platform."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.running_platform import RunningPlatform
from xdist.scheduler.loadscope import LoadScopeScheduling

from pilotlight_deploy.sample import write_sample
from pilotlight_platform.background import start_detached, stop_platform
from pilotlight_platform.settings import Settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class _RayTogether(LoadScopeScheduling):
    """Under `pytest -n`, all of tests/system/ goes to one process: there is one platform a run.

    By path: the groups of `--dist loadgroup` are lost on pytest 9.2, whose node ids pytest-xdist
    3.8 no longer reaches.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if nodeid.startswith("tests/system/") else nodeid


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a platform of their own come last: one Ray a machine, and starts take time."""
    items.sort(key=lambda item: item.get_closest_marker("own_platform") is not None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _RayTogether(config, log)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer and a chat template."""
    directory = tmp_path_factory.mktemp("sample") / "tiny"
    write_sample(directory, "tiny")
    return directory


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """One platform for the whole run: two workers of one thread, each holding two models."""
    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        port=free_port(),
        workers=2,
        worker_threads=1,
        worker_max_replicas=2,
        max_body_bytes=1 << 20,
        arena_bytes=64 << 20,
    )
    address = start_detached(settings, lambda message: None)
    with httpx.Client(base_url=address.url, timeout=60.0, trust_env=False) as http:
        yield RunningPlatform(address.url, settings, http)
    stop_platform(settings.home)
