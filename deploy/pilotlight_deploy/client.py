"""Client of the platform's HTTP API. Every wait is bounded; every failure is a CliError."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig
from pilotlight_deploy.answer import AnswerStream
from pilotlight_deploy.errors import CliError, from_api
from pilotlight_deploy.event_lines import BrokenStreamError, iter_lines, iter_sse_objects
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_platform.schemas.decision import Explanation, PoolStatus, ScalingStatus
from pilotlight_platform.schemas.model import (
    DeployEvent,
    DeployFailed,
    DeployLive,
    DeployProgress,
    ModelSpec,
    ModelStatus,
    PlatformStatus,
)
from pilotlight_platform.schemas.timeline import Timeline

_CONNECT_S = 5.0
_ANSWER_S = 30.0
_TOKEN_S = 600.0  # a cold start may wait for cold_start_timeout_s, which its model file sets
_DEPLOY_STEP_S = 1800.0  # the longest silence inside a bake
_TIMELINE_S = 2.0
_TIMELINE_STEP_S = 0.02
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}

_T = TypeVar("_T")
_EVENT: TypeAdapter[DeployEvent] = TypeAdapter(DeployEvent)
_TIMELINE = TypeAdapter(Timeline)


class _ModelList(BaseModel):
    models: list[ModelStatus]


_MODELS = TypeAdapter(_ModelList)
_MODEL = TypeAdapter(ModelStatus)
_STATUS = TypeAdapter(PlatformStatus)
_EXPLANATION = TypeAdapter(Explanation)
_SCALING = TypeAdapter(ScalingStatus)
_POOL = TypeAdapter(PoolStatus)


class PlatformClient:
    """One platform. A context manager: it owns its connections."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Raises CliError if *url* is not an HTTP address."""
        self.url = url.rstrip("/")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise CliError(f"{url!r} is not a URL: {error}", ExitCode.USAGE) from error
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise CliError(
                f"{url!r} is not a URL", ExitCode.USAGE, "write http://host:port or https://host"
            )
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=_timeout(_ANSWER_S),
            trust_env=parsed.host not in _LOOPBACK,  # a proxy cannot reach our loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def status(self) -> PlatformStatus:
        return self._get("/api/status", _STATUS)

    def models(self) -> list[ModelStatus]:
        return self._get("/api/models", _MODELS).models

    def model(self, name: str) -> ModelStatus:
        return self._get(f"/api/models/{_segment(name)}", _MODEL)

    def explain(self, name: str, since_s: float) -> Explanation:
        """How the model stands, and what was decided on it since that Unix time."""
        return self._get(f"/api/models/{_segment(name)}/decisions?since_s={since_s}", _EXPLANATION)

    def explain_pool(self, since_s: float) -> Explanation:
        return self._get(f"/api/pool/decisions?since_s={since_s}", _EXPLANATION)

    def scaling(self, name: str) -> ScalingStatus:
        return self._get(f"/api/models/{_segment(name)}/autoscaling", _SCALING)

    def configure(self, name: str, config: AutoscalingConfig) -> ScalingStatus:
        """Give a model other autoscaling settings, in place."""
        with self._failures():
            answer = self._http.put(
                f"/api/models/{_segment(name)}/autoscaling",
                content=config.model_dump_json(),
                headers={"Content-Type": "application/json"},
            )
            return _SCALING.validate_json(_checked(answer).content)

    def pool(self) -> PoolStatus:
        """The worker pool, and what holds for it now."""
        return self._get("/api/pool", _POOL)

    def configure_pool(self, config: PoolConfig) -> PoolStatus:
        """Give the pool other bounds, in place."""
        with self._failures():
            answer = self._http.put(
                "/api/pool",
                content=config.model_dump_json(),
                headers={"Content-Type": "application/json"},
            )
            return _POOL.validate_json(_checked(answer).content)

    def delete(self, name: str) -> None:
        with self._failures():
            _checked(self._http.delete(f"/api/models/{_segment(name)}"))

    def timeline(self, request_id: str) -> Timeline:
        return self._get(f"/api/requests/{_segment(request_id)}", _TIMELINE)

    def finished_timeline(self, request_id: str) -> Timeline:
        """The timeline, its end included: the platform writes that just after the last byte."""
        deadline = time.monotonic() + _TIMELINE_S
        while True:
            timeline = self.timeline(request_id)
            if timeline.total_s is not None or time.monotonic() > deadline:
                return timeline
            time.sleep(_TIMELINE_STEP_S)

    def deploy(self, spec: ModelSpec) -> Iterator[DeployProgress | DeployLive]:
        """Progress, then ``DeployLive`` as the last event.

        Raises CliError if the deploy failed; whatever was live before still is then.
        """
        with (
            self._failures(),
            self._http.stream(
                "PUT",
                f"/api/models/{_segment(spec.name)}",
                content=spec.model_dump_json(),
                headers={"Accept": "application/x-ndjson", "Content-Type": "application/json"},
                timeout=_timeout(_DEPLOY_STEP_S),
            ) as response,
        ):
            for line in iter_lines(_checked(response).iter_bytes()):
                event = _EVENT.validate_json(line)
                if isinstance(event, DeployFailed):
                    raise from_api(event.message, event.code)
                yield event
                if isinstance(event, DeployLive):
                    return
        raise self._lost("the deploy broke off: `pilotlight show` tells whether the model is live")

    @contextmanager
    def chat(
        self, model: str, messages: Sequence[Mapping[str, str]], **sampling: Any
    ) -> Iterator[AnswerStream]:
        """Stream a chat answer. *sampling*: max_tokens, temperature, seed; None is left out."""
        body = {"model": model, "messages": list(messages), **sampling}
        with self._stream("/v1/chat/completions", body) as stream:
            yield stream

    @contextmanager
    def complete(self, model: str, prompt: str, **sampling: Any) -> Iterator[AnswerStream]:
        """Stream the continuation of *prompt*; *sampling* as in ``chat``."""
        with self._stream("/v1/completions", {"model": model, "prompt": prompt, **sampling}) as s:
            yield s

    @contextmanager
    def _stream(self, path: str, body: Mapping[str, Any]) -> Iterator[AnswerStream]:
        sent = {name: value for name, value in body.items() if value is not None}
        sent |= {"stream": True, "stream_options": {"include_usage": True}}
        began_s = time.perf_counter()
        with (
            self._failures(),
            self._http.stream("POST", path, json=sent, timeout=_timeout(_TOKEN_S)) as response,
        ):
            objects = iter_sse_objects(iter_lines(_checked(response).iter_bytes()))
            yield AnswerStream(
                request_id=response.headers.get("x-request-id", ""),
                server_timing=response.headers.get("server-timing", ""),
                began_s=began_s,
                objects=objects,
            )

    def _get(self, path: str, adapter: TypeAdapter[_T]) -> _T:
        with self._failures():
            return adapter.validate_json(_checked(self._http.get(path)).content)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise CliError(
                f"no platform answers at {self.url}",
                ExitCode.UNREACHABLE,
                "start one with `pilotlight up`",
            ) from error
        except httpx.TimeoutException as error:
            raise self._lost("did not answer in time") from error
        except (httpx.TransportError, BrokenStreamError) as error:
            raise self._lost(f"the connection broke: {error}") from error
        except ValidationError as error:
            raise self._lost("does not answer like Pilotlight: is it one, of this version?") from (
                error
            )

    def _lost(self, what: str) -> CliError:
        return CliError(f"{self.url}: {what}", ExitCode.UNREACHABLE)


def _timeout(read_s: float) -> httpx.Timeout:
    return httpx.Timeout(_ANSWER_S, connect=_CONNECT_S, read=read_s)


def _segment(value: str) -> str:
    return quote(value, safe="")


def _checked(response: httpx.Response) -> httpx.Response:
    """*response* if it is a success. Raises the CliError that its body tells."""
    if response.is_success:
        return response
    response.read()
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), str(error["code"])
    except (ValueError, KeyError, TypeError):
        message = f"{response.url} answered {response.status_code}: is that a Pilotlight platform?"
        raise CliError(message, ExitCode.UNREACHABLE) from None
    raise from_api(message, code, response.status_code)
