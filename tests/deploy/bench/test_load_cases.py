"""The cases of `pilotlight bench load` from end to end, with a model of 4 MB. No times."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.object_server import ObjectServer

from pilotlight_deploy.bench.load import object_store_cases
from pilotlight_deploy.bench.load.in_turn import in_turn
from pilotlight_deploy.bench.load.link_cases import Link, LinkCases
from pilotlight_deploy.bench.load.local_cases import LocalCases, bench_arena
from pilotlight_deploy.bench.load.models import BenchModel, make_model
from pilotlight_deploy.bench.load.nginx import serve_with_nginx
from pilotlight_deploy.bench.load.object_store_cases import (
    BUCKET,
    ObjectStoreCases,
    runai_streamer,
)
from pilotlight_deploy.bench.load.sharing_case import SharingCase
from pilotlight_deploy.bench.load.throttled_server import throttled


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def model(home: Path) -> BenchModel:
    return make_model(home, "tiny", lambda _line: None)


def test_in_turn_lets_each_side_be_first() -> None:
    assert [in_turn("ab", turn) for turn in range(3)] == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_local_cases_measure_every_side_in_every_turn(model: BenchModel) -> None:
    with bench_arena(model, model) as arena:
        cases = LocalCases(model, model, arena)
        cases.turn()
        cases.turn()
        cases.release()

    order = [case["case"] for case in cases.cases]
    assert order[:6] == ["mapped", "safetensors", "arena", "memcpy", "memcpy_huge", "attach"]
    assert order[6:] == order[5::-1]
    assert {figure.n for figure in cases.figures()} == {2}


KEY = "tiny/model.safetensors"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cases set in the environment is as it was afterwards."""
    for name in object_store_cases._CREDENTIALS:
        monkeypatch.setenv(name, "")


@contextmanager
def served_by_python(model: BenchModel, _root: Path) -> Iterator[str]:
    with ObjectServer() as server:
        server.put(f"/{BUCKET}/{KEY}", model.path.read_bytes())
        yield server.url


@contextmanager
def served_by_nginx(model: BenchModel, root: Path) -> Iterator[str]:
    if shutil.which("nginx") is None and shutil.which("/usr/sbin/nginx") is None:
        pytest.skip("nginx is not installed")
    link = root / BUCKET / KEY
    link.parent.mkdir(parents=True)
    link.symlink_to(model.path)
    root.chmod(0o755)
    with serve_with_nginx(root) as url:
        yield url


Served = Callable[[BenchModel, Path], AbstractContextManager[str]]


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("served", [served_by_python, served_by_nginx])
def test_object_store_cases_measure_every_side_in_every_turn(
    model: BenchModel, tmp_path: Path, served: Served
) -> None:
    with served(model, tmp_path) as url:
        cases = ObjectStoreCases(model, url, KEY, None)
        cases.turn()
        cases.turn()
        cases.release()

    assert [case["case"] for case in cases.cases] == [
        *("s3", "raw_sockets", "s3_fresh"),
        *("s3_fresh", "raw_sockets", "s3"),
    ]
    assert {case["connections"] for case in cases.cases} == {16}
    assert [(figure.id, figure.n) for figure in cases.figures()] == [("load.s3_vs_raw", 2)]


@pytest.mark.usefixtures("aws")
def test_object_store_cases_read_all_of_the_object_on_every_side(model: BenchModel) -> None:
    nbytes = model.path.stat().st_size
    weights_nbytes = sum(info.nbytes for info in model.baked.tensors.values())
    with ObjectServer() as server:
        server.put(f"/{BUCKET}/{KEY}", model.path.read_bytes())
        cases = ObjectStoreCases(model, server.url, KEY, None)
        opened_bytes = server.sent_bytes
        cases.turn()
        cases.release()

        # Twice loaded and once drained; each opening reads the header, the loads nothing twice.
        assert 3 * weights_nbytes <= server.sent_bytes <= 3 * (nbytes + opened_bytes)


@pytest.mark.usefixtures("aws")
@pytest.mark.skipif(find_spec("runai_model_streamer") is None, reason="Run:ai is not installed")
def test_object_store_cases_measure_the_peer(model: BenchModel, tmp_path: Path) -> None:
    with served_by_nginx(model, tmp_path) as url, runai_streamer(url, KEY) as peer:
        cases = ObjectStoreCases(model, url, KEY, peer)
        cases.turn()
        cases.release()

    assert [figure.id for figure in cases.figures()] == [
        *("load.s3_vs_raw", "load.s3_vs_runai", "load.s3_into_fresh_vs_runai")
    ]


def test_link_cases_say_whether_parts_were_read_twice(model: BenchModel) -> None:
    with throttled(model.path.parent, 1e9) as url:
        cases = LinkCases(Link("test", 1e9, model, f"{url}/{model.path.name}"))
        cases.turn()
        cases.turn()
        cases.release()

    kinds = [case["case"].rpartition("_")[2] for case in cases.cases]
    assert kinds == ["gated", "ungated", "ungated", "gated"]
    assert all(case["hedges"] >= 0 and case["retries"] >= 0 for case in cases.cases)


def test_second_worker_reads_no_remote_byte(model: BenchModel, home: Path) -> None:
    with throttled(model.path.parent, 1e9) as url:
        case = SharingCase(model, f"{url}/{model.path.name}", home)
        case.turn()

    assert case.cases[0]["second_remote_bytes"] == 0
    assert case.cases[0]["first_remote_bytes"] > 0
