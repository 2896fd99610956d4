"""The documents say what the code says: names, codes, settings, schema."""

import json
import re
from pathlib import Path

import pytest
import typer

from pilotlight_autoscaler import ClusterFile, PoolConfig
from pilotlight_deploy.cli import app
from pilotlight_deploy.cluster_file import cluster_schema
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.model_file import schema
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.gateway import admin_routes, auth
from pilotlight_platform.schemas.model import ModelSpec
from pilotlight_platform.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
CLI = (ROOT / "docs" / "cli.md").read_text()
HTTP = (ROOT / "docs" / "http-api.md").read_text()
MODEL_FILE = (ROOT / "docs" / "model-file.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
LOADER = (ROOT / "docs" / "loader.md").read_text()
AUTOSCALER = (ROOT / "docs" / "autoscaler.md").read_text()
PAGES = {"loader": LOADER, "autoscaler": AUTOSCALER}  # whose codemap stands on its own page
PACKAGES = ("autoscaler", "loader", "platform", "deploy")
LIMITS = {"README.md": 120, "ARCHITECTURE.md": 220, "CONTRIBUTING.md": 100}


def section(text: str, title: str) -> str:
    """From the heading that begins with *title* to the next one of its level or above."""
    level = title.split(" ", 1)[0]
    start = text.index(f"\n{title}")
    end = re.compile(rf"\n#{{1,{len(level)}}} ").search(text, start + 1)
    return text[start : end.start() if end else len(text)]


def commands(group: typer.core.TyperGroup, prefix: str) -> list[tuple[str, list[str]]]:
    """Every command with its long options."""
    found = []
    for name, command in group.commands.items():
        path = f"{prefix} {name}"
        if isinstance(command, typer.core.TyperGroup):
            found += commands(command, path)
        else:
            options = [option for param in command.params for option in param.opts]
            found.append((path, [option for option in options if option.startswith("--")]))
    return found


def errors(root: type[PlatformError]) -> list[type[PlatformError]]:
    return [root, *(found for child in root.__subclasses__() for found in errors(child))]


COMMANDS = commands(typer.main.get_group(app), "pilotlight")


def test_docs_publish_the_schema_of_the_model_file() -> None:
    published = json.loads((ROOT / "docs" / "model.schema.json").read_text())

    assert published == schema(), "run: pilotlight schema > docs/model.schema.json"


def test_docs_publish_the_schema_of_the_cluster_file() -> None:
    published = json.loads((ROOT / "docs" / "cluster.schema.json").read_text())

    command = "pilotlight schema cluster > docs/cluster.schema.json"
    assert published == cluster_schema(), f"run: {command}"


def test_docs_list_every_field_of_the_cluster_file() -> None:
    text = (ROOT / "docs" / "cluster-file.md").read_text()
    fields = {f"pool.{name}" for name in PoolConfig.model_fields} | set(ClusterFile.model_fields)

    assert set(re.findall(r"\n\| `([\w.]+)` \|", text)) == fields


@pytest.mark.parametrize(("command", "options"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_docs_name_the_command_and_its_options(command: str, options: list[str]) -> None:
    row = next((line for line in CLI.splitlines() if line.startswith(f"| `{command}")), None)

    assert row is not None
    general = {"--help", "--json", "--home"}
    assert [option for option in options if option not in general and option not in row] == []


@pytest.mark.parametrize("code", ExitCode)
def test_docs_explain_the_exit_code(code: ExitCode) -> None:
    assert f"\n| {code.value} | {code.name} |" in CLI


@pytest.mark.parametrize("name", Settings.model_fields)
def test_docs_name_the_setting(name: str) -> None:
    assert f"\n| `PILOTLIGHT_{name.upper()}` |" in CLI


def test_docs_list_every_error_with_its_status() -> None:
    # Those that stand beside what raises them are known once their modules are imported.
    beside = {admin_routes.UnknownRequestError, auth.HostNotAllowedError}
    assert beside <= set(errors(PlatformError))
    expected = {(kind.code, kind.status) for kind in errors(PlatformError)}
    rows = re.findall(r"\n\| `(\w+)` \| (\d{3}) \|", section(HTTP, "## Errors"))

    starlettes = {("not_found", 404), ("method_not_allowed", 405)}
    assert {(code, int(status)) for code, status in rows} == expected | starlettes


def test_docs_list_every_field_of_the_model_file() -> None:
    top, nested = MODEL_FILE.split("## autoscaling")
    autoscaling = ModelSpec.model_fields["autoscaling"].annotation

    for text, fields in ((top, ModelSpec.model_fields), (nested, autoscaling.model_fields)):
        assert set(re.findall(r"\n\| `(\w+)` \|", text)) == set(fields)


@pytest.mark.parametrize("folder", PACKAGES)
def test_docs_codemap_names_every_module(folder: str) -> None:
    package = ROOT / folder / f"pilotlight_{folder}"
    if folder in PAGES:
        part = section(PAGES[folder], f"## Codemap of `{folder}/pilotlight_{folder}/`")
    else:
        part = section(ARCHITECTURE, f"### `{folder}/pilotlight_{folder}/`")
    named = re.findall(r"`([\w/]+\.py)`", part)
    modules = [path.relative_to(package).as_posix() for path in package.rglob("*.py")]

    assert sorted(named) == sorted(m for m in modules if not m.endswith("__init__.py"))


def test_docs_failure_table_names_tests_that_exist() -> None:
    cited = set(re.findall(r"`(test_\w+)`", ARCHITECTURE + LOADER + AUTOSCALER))
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    defined = {name for text in sources for name in re.findall(r"def (test_\w+)\(", text)}

    assert cited
    assert cited - defined == set()


def test_docs_say_of_every_pitfall_what_holds_it() -> None:
    rows = re.findall(r"\n\| (\d+) \| [^|]+ \| ([^|]+) \|", section(LOADER, "## Pitfalls"))
    tests = list((ROOT / "tests").rglob("test_*.py"))
    defined = {name for path in tests for name in re.findall(r"def (test_\w+)\(", path.read_text())}
    modules = {path.name for path in tests} | {
        path.relative_to(ROOT / "loader" / "pilotlight_loader").as_posix()
        for path in (ROOT / "loader" / "pilotlight_loader").rglob("*.py")
    }
    cited = {int(number): set(re.findall(r"`([^`]+)`", held)) for number, held in rows}

    assert list(cited) == list(range(1, 21))
    assert {name for names in cited.values() for name in names} - defined - modules == set()
    # Where nothing stands in the way but a reason: no copy from a mapping, and one direction only.
    assert {number for number, names in cited.items() if not names} == {12, 14}


def test_docs_links_lead_somewhere() -> None:
    broken = [
        f"{document.name}: {target}"
        for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
        for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]*)?\)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]

    assert broken == []


@pytest.mark.parametrize("name", LIMITS)
def test_docs_stay_short(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= LIMITS[name]
