"""Which kind of place a location is of: a new kind is one file and its line in OPENERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pilotlight_loader.errors import LocationError
from pilotlight_loader.sources.http import open_http
from pilotlight_loader.sources.http_object import HttpOptions
from pilotlight_loader.sources.hub import HubOptions, open_hub
from pilotlight_loader.sources.local import LocalOptions, open_local
from pilotlight_loader.sources.location import SUPPORTED, Location
from pilotlight_loader.sources.s3 import S3Options, open_s3
from pilotlight_loader.sources.source import Store

SourceOptions: TypeAlias = LocalOptions | HttpOptions | S3Options | HubOptions


@dataclass(frozen=True, slots=True)
class Opener:
    """A kind of place: what its options are, and what opens it with them."""

    options: type[SourceOptions]
    open: Callable[[Location, Any], Store]


OPENERS: Mapping[str, Opener] = {
    "file": Opener(LocalOptions, open_local),
    "http": Opener(HttpOptions, open_http),
    "https": Opener(HttpOptions, open_http),
    "s3": Opener(S3Options, open_s3),
    "hf": Opener(HubOptions, open_hub),
}


def open_store(location: Location, options: SourceOptions | None = None) -> Store:
    """The store that holds *location*'s directory.

    Raises LocationError for a scheme that nobody opens; TypeError for another kind's options.
    """
    opener = OPENERS.get(location.scheme)
    if opener is None:
        raise LocationError(
            str(location), f"{location.scheme}:// is not supported; use {SUPPORTED}"
        )
    if options is None:
        options = opener.options()
    if not isinstance(options, opener.options):
        raise TypeError(
            f"{location}: expected {opener.options.__name__}, not {type(options).__name__}"
        )
    return opener.open(location, options)
