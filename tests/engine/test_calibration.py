"""Which part of a text calibrates."""

from typing import Any

import pytest

from pilotlight_platform.engine.calibration import CalibrationError, windows_of


def by_character(text: str, **_wishes: Any) -> dict[str, list[int]]:
    return {"input_ids": [ord(character) for character in text]}


def test_windows_come_from_all_over_a_long_text() -> None:
    text = "".join(chr(0x100 + at // 1000) for at in range(500_000))

    windows = windows_of(text, by_character, 128)

    assert len(windows) == 64
    assert {tuple(window.shape) for window in windows} == {(1, 128)}
    assert windows[0][0, 0] == 0x100
    assert windows[-1][0, 0] > 0x100 + 490


def test_windows_of_a_short_text_do_not_overlap() -> None:
    windows = windows_of("".join(chr(0x100 + at) for at in range(1000)), by_character, 256)

    assert [int(window[0, 0]) for window in windows] == [0x100, 0x200, 0x300]


def test_windows_refuse_a_text_that_says_too_little() -> None:
    with pytest.raises(CalibrationError, match="gptq needs 512"):
        windows_of("short", by_character, 256)
