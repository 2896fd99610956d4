"""HTTP(S): a URL under which the files of a checkpoint are."""

from __future__ import annotations

import base64
import hashlib
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, quote, unquote

from pilotlight_loader.sources.http_object import (
    HttpOptions,
    HttpSource,
    open_object,
    open_with_beginning,
)
from pilotlight_loader.sources.http_route import FixedRequest, HttpRequest, Route, quoted
from pilotlight_loader.sources.location import Location

_SIGNATURE_PARAMETERS = frozenset(
    {
        *("awsaccesskeyid", "expires", "key-pair-id", "policy", "signature", "token"),
        *("se", "sig", "sp", "sr", "st", "sv"),
    }
)


def open_http(location: Location, options: HttpOptions) -> HttpStore:
    """Nothing is asked before the first object is opened."""
    return HttpStore(location, options)


class HttpStore:
    """A URL under which files have the names of a checkpoint."""

    def __init__(self, location: Location, options: HttpOptions | None = None) -> None:
        self.location = str(location)
        self._where = location
        self._options = options or HttpOptions()
        self._pool = self._options.pool()
        self._headers = {**_basic_authorization(location.userinfo), **self._options.headers}

    def open(self, name: str) -> HttpSource:
        return open_object(*self._object(name), self._pool, self._options)

    def open_with_beginning(self, name: str, nbytes: int) -> tuple[HttpSource, bytearray]:
        return open_with_beginning(*self._object(name), self._pool, self._options, nbytes)

    def _object(self, name: str) -> tuple[str, Route]:
        where = self._where
        url = quoted(f"{where.scheme}://{where.authority}{where.directory}/") + quote(name)
        query = f"?{quoted(where.query)}" if where.query else ""
        request = HttpRequest(url + query, self._headers)
        location = url + query_mark(where.query)
        return location, Route(FixedRequest(request))

    def names(self) -> None:
        """HTTP has no listing."""

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def query_mark(query: str) -> str:
    """What tells two objects of one path apart in a location, without showing the query.

    Signatures and their times are left out: they change, and the object does not.
    """
    meant = sorted(
        pair for pair in parse_qsl(query, keep_blank_values=True) if not _signs(pair[0].lower())
    )
    return f"#{hashlib.sha256(repr(meant).encode()).hexdigest()[:12]}" if meant else ""


def _signs(name: str) -> bool:
    return name.startswith(("x-amz-", "x-goog-")) or name in _SIGNATURE_PARAMETERS


def _basic_authorization(userinfo: str) -> dict[str, str]:
    if not userinfo:
        return {}
    return {"Authorization": f"Basic {base64.b64encode(unquote(userinfo).encode()).decode()}"}
