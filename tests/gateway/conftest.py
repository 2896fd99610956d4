"""Gateways, one without a key and one with, for all tests of a module."""

from collections.abc import Iterator

import pytest
from support.scripted_gateway import CHUNKS, KEY, ScriptedGateway, served, settings


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedGateway]:
    with served(settings(tmp_path_factory.mktemp("open"))) as running:
        yield running


@pytest.fixture(scope="module")
def closed_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedGateway]:
    with served(settings(tmp_path_factory.mktemp("closed"), api_key=KEY)) as running:
        yield running


@pytest.fixture
def gateway(open_gateway: ScriptedGateway) -> ScriptedGateway:
    open_gateway.workers.steps = CHUNKS
    open_gateway.workers.calls.clear()
    return open_gateway
