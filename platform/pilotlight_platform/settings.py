"""The platform's settings. The only module of the platform that reads the environment."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pilotlight_autoscaler import PoolConfig
from pilotlight_autoscaler.pool_config import MAX_WORKERS
from pilotlight_platform.errors import MachineError

_PREFIX = "PILOTLIGHT_"


def _default_home() -> Path:
    return Path.home() / ".pilotlight"


def _default_workers() -> int:
    # One worker per two cores: a worker alone on a core halves its prefill speed.
    return max(1, (os.cpu_count() or 1) // 2)


def _default_capacity_bytes() -> int:
    # Half of memory for weights: the rest is for key-value caches, Ray and the page cache.
    return int(psutil.virtual_memory().total) // 2


class Settings(BaseModel):
    """Each field can be set by ``PILOTLIGHT_<FIELD>``; `pilotlight up` has some as options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path = Field(default_factory=_default_home, description="Data directory.")
    host: str = Field("127.0.0.1", description="Address that the gateway listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port that the gateway listens on.")
    api_key: str | None = Field(
        None, min_length=1, description="Bearer token that requests must carry."
    )
    redis_url: str | None = Field(None, description="A Redis to use in place of the embedded one.")
    ray_address: str | None = Field(None, description="A running Ray cluster to join.")
    serve_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of Ray Serve's own proxy, for other applications; default: none.",
    )
    workers: int = Field(default_factory=_default_workers, ge=1, description="Warm workers.")
    pool: PoolConfig | None = Field(
        None, description="A pool that grows and shrinks, in place of a fixed number of workers."
    )
    worker_threads: int | None = Field(
        None, ge=1, description="Threads per worker; default: its share."
    )
    worker_capacity_bytes: int = Field(
        default_factory=_default_capacity_bytes, gt=0, description="Attached weights per worker."
    )
    worker_kv_cache_bytes: int | None = Field(
        None,
        gt=0,
        description="Keys and values of a worker's running requests; default: its share of a "
        "quarter of memory.",
    )
    worker_max_replicas: int = Field(16, ge=1, description="Attached models per worker.")
    max_body_bytes: int = Field(8 << 20, gt=0, description="Largest request body.")
    cache_bytes: int | None = Field(
        None, gt=0, description="Most that fetched sources may take on disk; default: no limit."
    )
    arena_bytes: int = Field(
        0, ge=0, description="Shared memory that keeps weights for all workers; 0: none."
    )
    request_log_size: int = Field(1000, ge=1, description="Timelines kept in memory.")
    object_store_bytes: int = Field(
        128 << 20, ge=80 << 20, description="Ray's object store; weights never pass through it."
    )

    @field_validator("pool", mode="before")
    @classmethod
    def _read_pool(cls, value: object) -> object:
        """A variable holds it as JSON."""
        return PoolConfig.model_validate_json(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _closed_beyond_loopback(self) -> Self:
        if self.host not in {"127.0.0.1", "localhost", "::1"} and self.api_key is None:
            raise ValueError(
                f"host {self.host} is reachable from outside: set an api_key "
                "(--api-key or PILOTLIGHT_API_KEY)"
            )
        return self

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.serve_port == self.port:
            raise ValueError(f"serve_port and port are both {self.port}: each needs its own")
        return self

    @property
    def threads_per_worker(self) -> int:
        """Each worker's share of the cores; oversubscribed OpenMP threads are about 10x slower."""
        return self.worker_threads or max(1, (os.cpu_count() or 1) // self.max_workers)

    @property
    def kv_cache_bytes_per_worker(self) -> int:
        """What keys and values of a worker's running requests may take, before some pause."""
        quarter = int(psutil.virtual_memory().total) // 4
        return self.worker_kv_cache_bytes or max(1, quarter // self.max_workers)

    @property
    def pool_config(self) -> PoolConfig:
        """The pool's bounds; equal ones are a fixed pool."""
        if self.pool is not None:
            return self.pool
        return PoolConfig(min_workers=self.workers, max_workers=self.workers, buffer_workers=0)

    @property
    def elastic(self) -> bool:
        """Whether Serve scales the pool."""
        return self.pool_config.min_workers < self.pool_config.max_workers

    @property
    def most_workers(self) -> int:
        """To which the pool can be raised while it runs: own Ray has been given so many cores."""
        return self.max_workers if self.ray_address is None or not self.elastic else MAX_WORKERS

    @property
    def max_workers(self) -> int:
        return self.pool_config.max_workers

    @property
    def checkpoints_dir(self) -> Path:
        return self.home / "checkpoints"

    @property
    def cache_dir(self) -> Path:
        return self.home / "cache"

    @property
    def arena_path(self) -> Path:
        """Of this user and home; memory that a killed platform left there is found again."""
        home = hashlib.sha256(os.fsencode(self.home.resolve())).hexdigest()[:16]
        return Path("/dev/shm") / f"pilotlight-{os.getuid()}-{home}"

    @property
    def redis_dir(self) -> Path:
        return self.home / "redis"

    @property
    def run_dir(self) -> Path:
        return self.home / "run"

    @property
    def log_dir(self) -> Path:
        return self.home / "log"

    def create_directories(self) -> None:
        """The home and what is in it, each new one closed to other users. Raises OSError."""
        for path in (
            self.home,
            self.run_dir,
            self.log_dir,
            self.checkpoints_dir,
            self.redis_dir,
        ):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, then *overrides* that are not None.

    Raises MachineError naming the variable or option that is wrong.
    """
    values: dict[str, object] = {
        name: os.environ[_PREFIX + name.upper()]
        for name in Settings.model_fields
        if os.environ.get(_PREFIX + name.upper())
    }
    values.update({name: value for name, value in overrides.items() if value is not None})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        hint = f" (set by {_PREFIX}{where.upper()} or its option)" if where else ""
        raise MachineError(f"Setting {where}: {what}{hint}" if where else what) from error
