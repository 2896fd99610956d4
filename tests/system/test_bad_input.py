"""What clients and deployers get wrong: refused, with the reason, and nothing left behind."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.running_platform import RunningPlatform

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def model(platform: RunningPlatform, sample: Path) -> str:
    platform.deploy("strict", sample, idle_timeout_s=30)
    return "strict"


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert answer.headers.get_list("x-request-id")
    return body


def test_request_unknown_model_is_404_with_openai_body(platform: RunningPlatform) -> None:
    answer = platform.complete("nobody")

    assert answer.status_code == 404
    assert error_of(answer)["code"] == "model_not_found"
    assert "'nobody'" in error_of(answer)["message"]


def test_request_malformed_json_is_400(platform: RunningPlatform) -> None:
    answer = platform.http.post(
        "/v1/completions", content=b'{"model": ', headers={"content-type": "application/json"}
    )

    assert answer.status_code == 400
    assert "not JSON" in error_of(answer)["message"]


def test_request_oversized_body_is_413(platform: RunningPlatform, model: str) -> None:
    answer = platform.complete(model, prompt="x" * (1 << 20))

    assert answer.status_code == 413
    assert error_of(answer)["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"prompt": []}, "prompt"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": "a\ud800"}, "prompt"),
        ({"stop": "\ud800"}, "stop"),
    ],
)
def test_request_bad_field_is_400_and_named(
    platform: RunningPlatform, model: str, change: dict[str, Any], param: str
) -> None:
    body = {"model": model, "prompt": "def main", **change}
    headers = {"content-type": "application/json"}  # httpx itself would refuse to send "\ud800"
    answer = platform.http.post("/v1/completions", content=json.dumps(body), headers=headers)

    assert answer.status_code == 400
    assert error_of(answer)["param"] == param


def test_request_tiny_temperature_is_greedy(platform: RunningPlatform, model: str) -> None:
    greedy = platform.complete(model, temperature=0)
    answer = platform.complete(model, temperature=1e-46)

    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"] == greedy.json()["choices"]


def test_request_nulls_are_defaults(platform: RunningPlatform, model: str) -> None:
    nulls = dict.fromkeys(("top_p", "top_k", "n", "stop", "stream", "stream_options", "seed"))

    assert platform.complete(model, **nulls).status_code == 200


def test_request_oversized_body_in_chunks_is_413(platform: RunningPlatform) -> None:
    chunks = (b"x" * 65536 for _ in range(20))
    answer = platform.http.post("/v1/completions", content=chunks)

    assert answer.status_code == 413
    assert error_of(answer)["code"] == "body_too_large"


def test_request_of_another_site_is_403(platform: RunningPlatform) -> None:
    for header in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        answer = platform.http.get("/v1/models", headers=header)

        assert answer.status_code == 403
        assert error_of(answer)["code"] == "host_not_allowed"


def test_request_longer_than_the_context_is_400(platform: RunningPlatform, model: str) -> None:
    answer = platform.complete(model, prompt=[5] * 5000)

    assert answer.status_code == 400
    assert error_of(answer)["code"] == "context_length_exceeded"


def test_request_is_bounded_by_the_context_of_the_model_file(
    platform: RunningPlatform, sample: Path
) -> None:
    spec = {"name": "short", "source": str(sample), "max_context_tokens": 8}
    assert platform.http.put("/api/models/short", json=spec).status_code == 200
    long = platform.complete("short", prompt=[5] * 8)
    full = platform.complete("short", prompt=[5] * 3, max_tokens=100, ignore_eos=True)
    platform.http.delete("/api/models/short")

    assert (long.status_code, error_of(long)["code"]) == (400, "context_length_exceeded")
    assert full.json()["usage"]["completion_tokens"] == 5
    assert full.json()["choices"][0]["finish_reason"] == "length"


def test_request_without_a_model_says_how_to_name_it(platform: RunningPlatform) -> None:
    answer = platform.http.post("/v1/completions", json={"prompt": "x"})

    assert answer.status_code == 400
    assert error_of(answer)["param"] == "model"


def test_request_that_is_not_declared_as_json_is_told_so(platform: RunningPlatform) -> None:
    answer = platform.http.post("/v1/completions", content=b'{"model": "m"}')

    assert answer.status_code == 400
    assert "Content-Type" in error_of(answer)["message"]


def test_request_with_a_huge_prompt_holds_up_no_other(
    platform: RunningPlatform, model: str
) -> None:
    with ThreadPoolExecutor(1) as threads:
        huge = threads.submit(platform.complete, model, prompt="ab " * 330_000)
        other = platform.complete(model)
        was_running = not huge.done()

    assert other.status_code == 200
    assert was_running
    assert huge.result().status_code == 400


def test_request_to_no_route_is_404(platform: RunningPlatform) -> None:
    assert error_of(platform.http.get("/v2/nothing"))["code"] == "not_found"


def break_pickle(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def break_truncated(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def break_overlap(directory: Path) -> None:
    path = directory / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    header[names[1]] = header[names[0]]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


def break_missing_shard(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def break_path(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../outside.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def break_config(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "unheard-of"}')


@pytest.mark.parametrize(
    ("breakage", "named"),
    [
        (break_pickle, "pytorch_model.bin"),
        (break_truncated, "truncated"),
        (break_overlap, "overlap"),
        (break_missing_shard, "model-00001-of-00001.safetensors"),
        (break_path, "../outside.safetensors"),
        (break_config, "unheard-of"),
    ],
)
def test_deploy_bad_source_is_refused_and_leaves_nothing(
    platform: RunningPlatform, sample: Path, tmp_path: Path, breakage: Any, named: str
) -> None:
    source = tmp_path / "model"
    shutil.copytree(sample, source)
    breakage(source)
    kept = {path.name for path in platform.settings.checkpoints_dir.glob("*")}
    answer = platform.http.put("/api/models/bad", json={"name": "bad", "source": str(source)})

    assert answer.status_code == 422, answer.text
    assert named in error_of(answer)["message"]
    assert {path.name for path in platform.settings.checkpoints_dir.glob("*")} == kept
    assert platform.http.get("/api/models/bad").status_code == 404


def test_deploy_bad_source_keeps_what_was_live(
    platform: RunningPlatform, model: str, tmp_path: Path
) -> None:
    body = {"name": model, "source": str(tmp_path / "nothing")}
    answer = platform.http.put(f"/api/models/{model}", json=body)

    assert answer.status_code == 422
    assert platform.complete(model).status_code == 200


def test_deploy_unknown_setting_is_400(platform: RunningPlatform, sample: Path) -> None:
    body = {"name": "x", "source": str(sample), "autoscaling": {"idle_timeout": 5}}
    answer = platform.http.put("/api/models/x", json=body)

    assert answer.status_code == 400
    assert error_of(answer)["param"] == "autoscaling.idle_timeout"
