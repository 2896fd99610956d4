"""A server for objects, and stores that are closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support.object_server import ObjectServer
from support.reading import DATA

from pilotlight_loader.sources.http import HttpStore
from pilotlight_loader.sources.http_object import HttpOptions
from pilotlight_loader.sources.location import parse_location


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with ObjectServer() as running:
        running.put("/model/blob", DATA)
        yield running


@pytest.fixture
def owned() -> Iterator[ExitStack]:
    """What is entered here is closed at the end of the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def http_store(server: ObjectServer, owned: ExitStack) -> Callable[..., HttpStore]:
    """A store of the server's /model, with these options."""

    def make(path: str = "/model", **options: object) -> HttpStore:
        settings = {"silence_timeout_s": 5.0, **options}
        location = parse_location(server.url + path)
        return owned.enter_context(HttpStore(location, HttpOptions(**settings)))

    return make


@pytest.fixture
def other_server() -> Iterator[ObjectServer]:
    """Another host, as far as HTTP is concerned: its port differs."""
    with ObjectServer() as running:
        yield running
