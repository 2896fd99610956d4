"""The embedded Redis and the store on it: real server, real files."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from redis import Redis
from support.records import model_record
from support.waiting import until

from pilotlight_platform.errors import MachineError, StoreError
from pilotlight_platform.schemas.model import ModelRecord
from pilotlight_platform.store.embedded import EmbeddedRedis
from pilotlight_platform.store.redis_store import RedisStore, read_models


def put(url: str, *records: ModelRecord) -> None:
    async def work() -> None:
        store = RedisStore(url)
        for one in records:
            await store.put_model(one)
        await store.close()

    asyncio.run(work())


def server_pid(url: str) -> int:
    with Redis.from_url(url) as client:
        pid: int = client.info("server")["process_id"]
    return pid


def kill_server(url: str) -> None:
    os.kill(server_pid(url), signal.SIGKILL)


def models(url: str) -> dict[str, ModelRecord]:
    """What is stored; nothing while the server does not answer."""
    try:
        return read_models(url)
    except StoreError:
        return {}


def test_store_models_survive_a_restart_of_the_server(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as redis:
        put(redis.url, model_record("a"), model_record("b"))
    with EmbeddedRedis(tmp_path) as redis:
        assert read_models(redis.url) == {"a": model_record("a"), "b": model_record("b")}


def test_store_models_survive_a_killed_server(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as redis:
        put(redis.url, model_record("a"))
        kill_server(redis.url)
    with EmbeddedRedis(tmp_path) as redis:
        assert list(read_models(redis.url)) == ["a"]


def test_store_deleted_model_is_gone(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        store = RedisStore(url)
        await store.put_model(model_record("a"))
        await store.delete_model("a")
        await store.close()

    with EmbeddedRedis(tmp_path) as redis:
        asyncio.run(work(redis.url))

        assert read_models(redis.url) == {}


def test_store_unreachable_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not answer"):
        read_models(f"unix://{tmp_path}/none.sock")


def test_embedded_socket_is_for_its_user_only(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as redis:
        path = Path(redis.url.removeprefix("unix://"))

        assert path.stat().st_mode & 0o077 == 0


def test_embedded_long_directory_still_starts(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / ("d" * 120)) as redis:
        path = Path(redis.url.removeprefix("unix://"))
        assert read_models(redis.url) == {}
    assert not path.parent.exists()


def test_embedded_server_that_dies_comes_back_with_its_data(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as redis:
        put(redis.url, model_record("a"))
        for _ in range(2):
            kill_server(redis.url)
            until(lambda: list(models(redis.url)) == ["a"], 10)
        put(redis.url, model_record("b"))
        server = psutil.Process(server_pid(redis.url))

        assert sorted(models(redis.url)) == ["a", "b"]
    assert not server.is_running()


def test_embedded_stop_during_a_restart_leaves_no_server(tmp_path: Path) -> None:
    before = psutil.Process().children()
    with EmbeddedRedis(tmp_path) as redis:
        kill_server(redis.url)
    until(lambda: all(thread.name != "watch-redis" for thread in threading.enumerate()))

    # No child at all: a server has its name only when it has become one.
    assert set(psutil.Process().children()) <= set(before)


def test_embedded_starts_over_a_stale_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "redis.sock"))
    with EmbeddedRedis(tmp_path) as redis:
        assert read_models(redis.url) == {}


def test_embedded_never_shares_its_data_with_a_live_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilotlight_platform.store.embedded._GONE_TIMEOUT_S", 0.1)
    with (
        EmbeddedRedis(tmp_path),
        pytest.raises(MachineError, match="another Redis serves"),
        EmbeddedRedis(tmp_path),
    ):
        pass


def test_embedded_server_dies_with_its_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from redis import Redis\n"
        "from pilotlight_platform.store.embedded import EmbeddedRedis\n"
        "with EmbeddedRedis(Path(sys.argv[1])) as redis:\n"
        "    print(Redis.from_url(redis.url).info('server')['process_id'], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    server = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait(timeout=10)

    gone, _ = psutil.wait_procs([server], timeout=10)
    parent.stdout.close()
    parent.stdin.close()
    assert gone
