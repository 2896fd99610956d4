"""What scripts/fuzz_header.py begins with: a corpus of what is refused early finds little."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz_header.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_fuzz_seeds_are_accepted_as_what_they_are(script):
    assert all(script["judge"](seed[0], seed[1:]) for seed in script["seeds"]())


def test_fuzz_seeds_are_of_every_kind(script):
    kinds = {script["NAMES"][seed[0]] for seed in script["seeds"]()}

    assert kinds == set(script["NAMES"])


def test_fuzz_seeds_fit_the_fuzzer_s_limit(script):
    assert all(len(seed) <= script["MAX_INPUT_BYTES"] for seed in script["seeds"]())


@pytest.mark.parametrize("kind", [0, 5, 6, 7])
def test_fuzz_judge_refuses_what_is_nothing(script, kind):
    assert not script["judge"](kind, b"nothing of the sort")
