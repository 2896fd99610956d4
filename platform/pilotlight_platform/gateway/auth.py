"""Who may call: whoever holds the API key; without a key, programs of this machine."""

from __future__ import annotations

import hmac
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pilotlight_platform.errors import AuthenticationError, PlatformError, RequestError
from pilotlight_platform.gateway.error_responses import error_response
from pilotlight_platform.settings import Settings

_OPEN_PATHS = {"/healthz", "/readyz"}  # probes hold no key
_PORT = re.compile(r":[0-9]*$")


class HostNotAllowedError(RequestError):
    """A web page of another site tries to reach a platform that has no key."""

    code = "host_not_allowed"
    status = 403


class Auth:
    """ASGI middleware: refuses before anything of the body is read.

    A platform without a key listens on loopback, where browsers reach it too: a page could call
    it from another origin, or give its own name the address 127.0.0.1 (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._key = None if settings.api_key is None else settings.api_key.encode()
        names = {"localhost", "127.0.0.1", "::1", settings.host.lower()}
        self._hosts = names | {f"[{name}]" for name in names if ":" in name}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            refusal = self._refusal(Headers(scope=scope))
        answer = self._app if refusal is None else error_response(refusal)
        await answer(scope, receive, send)

    def _refusal(self, headers: Headers) -> PlatformError | None:
        if self._key is not None:
            return None if _bears(headers, self._key) else _unauthenticated()
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_here(host):
            return _not_allowed("Host", host)
        if origin is not None and not self._is_here(origin.partition("://")[2]):
            return _not_allowed("Origin", origin)
        return None

    def _is_here(self, host: str) -> bool:
        host = host.lower()
        return host in self._hosts or _PORT.sub("", host) in self._hosts


def _bears(headers: Headers, key: bytes) -> bool:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    # Headers are decoded as Latin-1: this gives the bytes back that were sent.
    return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode("latin-1"), key)


def _unauthenticated() -> AuthenticationError:
    return AuthenticationError("Send the platform's API key as `Authorization: Bearer <key>`.")


def _not_allowed(header: str, value: str) -> HostNotAllowedError:
    return HostNotAllowedError(
        f"{header} {value!r} is not allowed: a platform without an API key answers to localhost "
        "and 127.0.0.1 only, so that web pages cannot use it. Call it by one of these names, or "
        "set PILOTLIGHT_API_KEY and send the key."
    )
