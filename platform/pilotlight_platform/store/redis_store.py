"""What outlives the platform's processes: models, what was learned, decisions. Redis."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from pilotlight_platform.errors import StoreError
from pilotlight_platform.pool_policy import CHANNEL
from pilotlight_platform.schemas.model import ModelRecord

logger = logging.getLogger("pilotlight.store")

_MODELS = "pilotlight:1:models"  # hash: name -> ModelRecord as JSON; 1 is the format's version
_LEARNED = "pilotlight:1:learned"  # string: the autoscaler's state as JSON
_POOL = "pilotlight:1:pool-settings"  # string: bounds given while it runs, as JSON
_DECISIONS = "pilotlight:1:decisions:"  # and a model's name: list of JSON, oldest first
MAX_DECISIONS = 200  # per model
_DECISIONS_TTL_S = 7 * 86400
_TIMEOUT_S = 5.0
_MAX_LEARNED_BYTES = 256 << 20  # 100,000 models need about half of that


def read_models(url: str) -> dict[str, ModelRecord]:
    """Every live model by name. Blocks: for start-up. Raises StoreError."""
    try:
        with SyncRedis.from_url(
            url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        ) as redis:
            rows: Any = redis.hgetall(_MODELS)
    except RedisError as error:
        raise _unreachable(error) from error
    records = {}
    for name, row in rows.items():
        try:
            records[name.decode()] = ModelRecord.model_validate_json(row)
        except ValidationError as error:  # one broken row must not keep all models down
            logger.error("record_unreadable model=%r reason=%s", name, error)
    return records


def read_learned(url: str) -> bytes | None:
    """What the autoscaler has learned, as it was saved. Blocks: for start-up. Raises StoreError."""
    try:
        with SyncRedis.from_url(
            url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        ) as redis:
            if redis.strlen(_LEARNED) > _MAX_LEARNED_BYTES:
                logger.error(
                    "learned_refused reason=it is larger than %d bytes", _MAX_LEARNED_BYTES
                )
                return None
            saved: bytes | None = redis.get(_LEARNED)
    except RedisError as error:
        raise _unreachable(error) from error
    return saved


def read_pool(url: str) -> bytes | None:
    """The pool's bounds, as they were saved. Blocks: for start-up. Raises StoreError."""
    try:
        with SyncRedis.from_url(
            url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        ) as redis:
            saved: bytes | None = redis.get(_POOL)
    except RedisError as error:
        raise _unreachable(error) from error
    return saved


class RedisStore:
    """Written by the scheduler only. Raises StoreError when Redis does not answer in 5 s."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(
            url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        )

    async def put_model(self, record: ModelRecord) -> None:
        try:
            await self._redis.hset(_MODELS, record.spec.name, record.model_dump_json())
        except RedisError as error:
            raise _unreachable(error) from error

    async def delete_model(self, name: str) -> None:
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hdel(_MODELS, name)
                pipe.delete(_DECISIONS + name)
                await pipe.execute()
        except RedisError as error:
            raise _unreachable(error) from error

    async def put_learned(self, saved: bytes) -> None:
        try:
            await self._redis.set(_LEARNED, saved)
        except RedisError as error:
            raise _unreachable(error) from error

    async def put_pool(self, saved: bytes) -> None:
        try:
            await self._redis.set(_POOL, saved)
        except RedisError as error:
            raise _unreachable(error) from error

    async def append_decisions(self, rows: Mapping[str, Sequence[bytes]]) -> None:
        """Add to what is kept of each model; the oldest of more than 200 go."""
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                for name, each in rows.items():
                    key = _DECISIONS + name
                    pipe.rpush(key, *each[-MAX_DECISIONS:])
                    pipe.ltrim(key, -MAX_DECISIONS, -1)
                    pipe.expire(key, _DECISIONS_TTL_S)
                await pipe.execute()
        except RedisError as error:
            raise _unreachable(error) from error

    async def decisions(self, name: str) -> list[bytes]:
        """What is kept of a model, oldest first."""
        try:
            rows: Any = await self._redis.lrange(_DECISIONS + name, 0, -1)
        except RedisError as error:
            raise _unreachable(error) from error
        return list(rows)

    async def publish_pool(self, workers: int, at_least: bool) -> None:
        """Tell Serve's policy of the pool; nothing is stored."""
        try:
            message = json.dumps({"workers": workers, "at_least": at_least})
            await self._redis.publish(CHANNEL, message)
        except RedisError as error:
            raise _unreachable(error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _unreachable(error: RedisError) -> StoreError:
    return StoreError(f"the store does not answer: {error}")
