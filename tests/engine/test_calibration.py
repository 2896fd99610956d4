"""Which part of a text calibrates, and what the layers make of it."""

from typing import Any

import pytest
import torch
from torch import nn

from pilotlight_loader.quantize.matrix import INT8
from pilotlight_platform.engine.calibration import CalibrationError, GptqRounding, windows_of


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


class _Half(nn.Module):
    """Multiplies by a half, or by what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(8, 8, bias=False)
        self.proj.weight.data = torch.eye(8) / 2

    def forward(self, hidden_states: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return scale * self.proj(hidden_states)


class _Model(nn.Module):
    """Four layers, each called in its own way."""

    scales = (1.0, 3.0, 1.0, 5.0)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Half() for _ in self.scales)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
        hidden = input_ids.float().unsqueeze(-1).expand(-1, -1, 8)
        for layer, scale in zip(self.layers, self.scales, strict=True):
            hidden = layer(hidden, scale=scale)
        return hidden


def seen_by(rounded: list[int]) -> dict[int, float]:
    """The root of what each rounded layer's Hessian says of its inputs; 1 are those of layer 0."""
    model, seen = _Model(), {}
    rounding = GptqRounding(model, [torch.ones(1, 4, dtype=torch.long)])
    for index in rounded:
        name = f"layers.{index}.proj.weight"
        rounding.matrix(name, model.get_parameter(name).detach(), INT8)
        hessian = rounding._hessians.get(name)
        seen[index] = 0.0 if hessian is None else (hessian[0, 0].item() / 4) ** 0.5
    return seen


def test_rounding_gives_each_layer_its_own_arguments() -> None:
    assert seen_by([0, 1, 2, 3]) == pytest.approx({0: 1, 1: 0.5, 2: 0.75, 3: 0.375}, rel=0.02)


def test_rounding_runs_the_layers_that_have_nothing_to_round() -> None:
    assert seen_by([0, 3]) == pytest.approx({0: 1, 3: 0.375}, rel=0.02)


def test_rounding_of_a_layer_that_was_passed_has_no_hessian() -> None:
    assert seen_by([1, 0])[0] == 0
