"""The folder `platform/` must never shadow the standard library's module of that name."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE_FOLDERS = ("platform", "loader", "autoscaler", "deploy")


def test_layout_root_on_path_keeps_standard_platform() -> None:
    """`python -m pytest`, locust and uvicorn all start with the root on sys.path."""
    script = "import platform, pilotlight_platform; print(platform.python_version())"
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize("folder", PACKAGE_FOLDERS)
def test_layout_folder_holds_one_package_and_no_module(folder: str) -> None:
    children = [p for p in (ROOT / folder).iterdir() if p.name != "__pycache__"]

    assert [p.name for p in children if p.suffix == ".py"] == []
    assert [p.name for p in children if p.is_dir()] == [f"pilotlight_{folder}"]


def test_layout_tests_are_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    assert not (ROOT / "tests" / "platform").exists()
