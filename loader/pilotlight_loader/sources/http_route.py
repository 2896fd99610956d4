"""Where an object is to be asked for at present: signed, signed again, redirected."""

from __future__ import annotations

import http
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote, urljoin, urlsplit

from pilotlight_loader.errors import RangeAnswerError
from pilotlight_loader.sources.http_connection import Origin
from pilotlight_loader.sources.location import redacted

_PORTS = {"http": 80, "https": 443}
_REFUSED = frozenset({http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN})
_GONE = frozenset({http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE})
# What object stores say where the keys themselves, not what they may do, are the reason.
EXPIRED = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"),
        *("InvalidToken", "InvalidAccessKeyId", "InvalidClientTokenId"),
    }
)
_SAFE_IN_URL = "%/:=&?~#+!$,;'@()*[]"


def quoted(url: str) -> str:
    """*url* with what may not stand in a request line percent-encoded; what is stays as it is."""
    return quote(url, safe=_SAFE_IN_URL)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """Whom to ask, and what to send along; both may hold credentials, so neither is printed."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    use_until_s: float = float("inf")  # by time.monotonic
    is_redirected: bool = False

    @property
    def origin(self) -> Origin:
        parts = urlsplit(self.url)
        port = parts.port or _PORTS[parts.scheme]
        return Origin(parts.scheme == "https", parts.hostname or "", port)

    @property
    def host(self) -> str:
        """As it stands in the URL: signatures cover it."""
        return urlsplit(self.url).netloc

    @property
    def target(self) -> str:
        parts = urlsplit(self.url)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class Signer(Protocol):
    """Makes requests for one object. Route calls it under its lock."""

    def sign(self) -> HttpRequest:
        """A GET."""

    def sign_head(self) -> HttpRequest | None:
        """A HEAD of the same object; None where its answer would say nothing of the GET's."""

    def was_refused(self, code: str) -> bool:
        """The last request was refused: whether sign() would now give a better one.

        *code* is what an object store says of it, perhaps nothing.
        """


@dataclass(frozen=True, slots=True)
class FixedRequest:
    """A signer of one request that never changes."""

    request: HttpRequest
    answers_head: bool = True

    def sign(self) -> HttpRequest:
        return self.request

    def sign_head(self) -> HttpRequest | None:
        return self.request if self.answers_head else None

    def was_refused(self, code: str) -> bool:
        return False


class Route:
    """One for all readers of an object, thread-safe: what one of them learns, all use.

    A redirect is remembered, or each range would be asked for twice; when what it led to is
    refused or gone, its signature has expired, and the way begins again at the first URL.
    """

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._lock = threading.Lock()
        self._request: HttpRequest | None = None

    def current(self) -> HttpRequest:
        with self._lock:
            if self._request is None or time.monotonic() >= self._request.use_until_s:
                self._request = self._signer.sign()
            return self._request

    def head(self) -> HttpRequest | None:
        """A HEAD, signed for this once; it leaves current() as it is."""
        with self._lock:
            return self._signer.sign_head()

    def follow(self, request: HttpRequest, to: str, location: str) -> None:
        """Go on at *to*, where *request* was redirected. Raises RangeAnswerError."""
        url = quoted(urljoin(request.url, to))
        try:
            hop = HttpRequest(url, is_redirected=True)
            is_same_place = hop.origin == request.origin
        except (KeyError, ValueError) as error:
            raise RangeAnswerError(location, f"redirected to {redacted(url)!r}") from error
        if request.origin.is_tls and not hop.origin.is_tls:
            raise RangeAnswerError(location, f"redirected from https to {redacted(url)}: refused")
        if is_same_place:  # elsewhere, Authorization and the like are nobody's business
            hop = HttpRequest(url, request.headers, is_redirected=True)
        with self._lock:
            if self._request is request:
                self._request = hop

    def renew(self, request: HttpRequest, status: int, code: str) -> bool:
        """After *request* was refused, with an object store's *code*: is there another one now?"""
        has_expired = code in EXPIRED
        with self._lock:
            if self._request is not request:
                return True  # another reader was faster
            if request.is_redirected:
                if status not in _REFUSED | _GONE and not has_expired:
                    return False
            elif not (status in _REFUSED or has_expired) or not self._signer.was_refused(code):
                return False
            self._request = None
            return True

    def restart(self) -> None:
        """Forget redirects and signatures."""
        with self._lock:
            self._request = None
