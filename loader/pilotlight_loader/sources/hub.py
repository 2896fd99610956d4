"""The Hugging Face hub: one commit for the whole load, from its local cache where that has it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pilotlight_loader.errors import (
    AccessDeniedError,
    LocationError,
    ObjectMissingError,
    SourceReadError,
    TransientReadError,
)
from pilotlight_loader.sources.http_object import HttpOptions, open_object
from pilotlight_loader.sources.http_route import FixedRequest, HttpRequest, Route
from pilotlight_loader.sources.local import LocalOptions, LocalSource
from pilotlight_loader.sources.location import Location
from pilotlight_loader.sources.source import ByteSource

API_TIMEOUT_S = 10.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubOptions:
    """What is None is found as huggingface_hub finds it: HF_ENDPOINT, HF_TOKEN, HF_HOME, …"""

    endpoint: str | None = None
    token: str | bool | None = field(default=None, repr=False)  # False: send none
    cache_dir: Path | None = None
    offline: bool | None = None
    http: HttpOptions = field(default_factory=HttpOptions)
    local: LocalOptions = field(default_factory=LocalOptions)


def open_hub(location: Location, options: HubOptions) -> HubStore:
    """Resolves the revision: one request, or none where that is a commit or we are offline."""
    return HubStore(location, options)


class HubStore:
    """A folder of a repository at one commit."""

    def __init__(self, location: Location, options: HubOptions | None = None) -> None:
        self.location = str(location)
        self._hub = _import(self.location)
        self._options = options or HubOptions()
        self._repository = location.authority
        self._folder = f"{location.directory}/" if location.directory else ""
        try:
            self._hub.utils.validate_repo_id(self._repository)
        except self._hub.errors.HFValidationError as error:
            raise LocationError(self.location, str(error)) from error
        offline = self._options.offline
        self._is_offline = self._hub.constants.HF_HUB_OFFLINE if offline is None else offline
        self._files: Sequence[str] | None = None  # of the whole repository, once it was asked for
        self.commit = self._resolve(location.revision)
        self._pool = self._options.http.pool()

    def open(self, name: str) -> ByteSource:
        location = f"hf://{self._repository}@{self.commit}/{self._folder}{name}"
        cached = self._hub.try_to_load_from_cache(
            self._repository,
            self._folder + name,
            cache_dir=self._options.cache_dir,
            revision=self.commit,
        )
        if isinstance(cached, str):
            return LocalSource(Path(cached), location=location, options=self._options.local)
        if self._is_offline:
            raise ObjectMissingError(location, "not in the local cache, and the hub is offline")
        headers = self._hub.utils.build_hf_headers(token=self._options.token)
        url = self._hub.hf_hub_url(
            self._repository,
            self._folder + name,
            revision=self.commit,
            endpoint=self._options.endpoint,
        )
        request = HttpRequest(url, {**headers, **self._options.http.headers})
        # The hub redirects weights to signed URLs, which hold for a GET: HEAD would say nothing.
        route = Route(FixedRequest(request, answers_head=False))
        return open_object(location, route, self._pool, self._options.http)

    def names(self) -> Sequence[str] | None:
        """Without those in deeper folders; offline, what the cache has."""
        if self._is_offline:
            snapshot = self._cached_repository() / "snapshots" / self.commit / self._folder
            try:
                return sorted(file.name for file in snapshot.iterdir() if file.is_file())
            except OSError:
                return None
        if self._files is None:
            self._ask(self.commit)
        inside = [file.removeprefix(self._folder) for file in self._files or ()
                  if file.startswith(self._folder)]  # fmt: skip
        return sorted(file for file in inside if "/" not in file)

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

    def _resolve(self, revision: str) -> str:
        """The commit that *revision* is now: a branch that moves cannot mix two checkpoints."""
        if _COMMIT.fullmatch(revision):
            return revision
        if self._is_offline:
            return self._cached_commit(revision) or self._not_cached(revision)
        try:
            return self._ask(revision)
        except TransientReadError as error:
            # As huggingface_hub does: without a network, what the branch was last time.
            commit = self._cached_commit(revision)
            if commit is None:
                raise
            _log.warning("%s; reading the cached commit %s", error, commit)
            self._is_offline = True
            return commit

    def _ask(self, revision: str) -> str:
        api = self._hub.HfApi(endpoint=self._options.endpoint, token=self._options.token)
        try:
            info = api.model_info(self._repository, revision=revision, timeout=API_TIMEOUT_S)
        except Exception as error:  # also what the hub's HTTP library raises, which may change
            raise self._api_error(error) from error
        self._files = [sibling.rfilename for sibling in info.siblings or ()]
        return str(info.sha)

    def _api_error(self, error: Exception) -> SourceReadError:
        errors = self._hub.errors
        status = getattr(getattr(error, "response", None), "status_code", 0)
        reason = f"HTTP {status}" if status else type(error).__name__
        if isinstance(error, errors.GatedRepoError):
            return AccessDeniedError(self.location, f"{reason}: a gated repository, ask for access")
        if isinstance(error, errors.RepositoryNotFoundError):
            return AccessDeniedError(
                self.location, f"{reason}: no such repository, or it is private and needs a token"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return ObjectMissingError(self.location, f"{reason}: no such revision")
        if status in (401, 403):
            return AccessDeniedError(self.location, reason)
        if status and status < 500 and status not in (408, 429):
            return SourceReadError(self.location, f"the hub answered {reason}")
        return TransientReadError(self.location, f"the hub cannot be asked: {reason}")

    def _cached_repository(self) -> Path:
        cache = Path(self._options.cache_dir or self._hub.constants.HF_HUB_CACHE)
        return cache / f"models--{self._repository.replace('/', '--')}"

    def _cached_commit(self, revision: str) -> str | None:
        try:
            text = (self._cached_repository() / "refs" / revision).read_text(encoding="ascii")
        except (OSError, ValueError):
            return None
        return text.strip() if _COMMIT.fullmatch(text.strip()) else None

    def _not_cached(self, revision: str) -> str:
        raise ObjectMissingError(
            self.location, f"{revision!r} is not in the local cache, and the hub is offline"
        )


def _import(location: str) -> Any:
    try:
        # Only who reads from the hub needs it, and it costs 0.3 s to import.
        import huggingface_hub  # noqa: PLC0415
        import huggingface_hub.constants  # noqa: PLC0415
        import huggingface_hub.errors  # noqa: PLC0415
        import huggingface_hub.utils  # noqa: PLC0415
    except ImportError as error:
        raise LocationError(
            location, "hf:// needs huggingface_hub: pip install huggingface_hub"
        ) from error
    return huggingface_hub
