"""GPTQ, layer by layer, on what its rounded predecessors give."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pilotlight_loader.quantize.inverse_root import inverse_root
from pilotlight_loader.quantize.matrix import INT8
from pilotlight_platform.engine import input_sums
from pilotlight_platform.engine.calibration import GptqRounding


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


@pytest.fixture
def seen_by(monkeypatch, tmp_path) -> Callable[[list[int]], dict[int, float]]:
    """The root of what each rounded layer's Hessian says of its inputs; 1 are those of layer 0."""

    def run(rounded: list[int]) -> dict[int, float]:
        model, seen = _Model(), dict.fromkeys(rounded, 0.0)
        window = torch.ones(1, 4, dtype=torch.long)
        names = [f"layers.{index}.proj.weight" for index in rounded]
        rounding = GptqRounding(model, [window], tmp_path, names)
        for index in rounded:

            def look(hessian, index=index):
                seen[index] = (hessian[0, 0].item() / 4) ** 0.5
                return inverse_root(hessian)

            monkeypatch.setattr(input_sums, "inverse_root", look)
            name = f"layers.{index}.proj.weight"
            rounding.matrix(name, model.get_parameter(name).detach(), INT8)
        return seen

    return run


def test_rounding_gives_each_layer_its_own_arguments(seen_by) -> None:
    assert seen_by([0, 1, 2, 3]) == pytest.approx({0: 1, 1: 0.5, 2: 0.75, 3: 0.375}, rel=0.02)


def test_rounding_runs_the_layers_that_have_nothing_to_round(seen_by) -> None:
    assert seen_by([0, 3]) == pytest.approx({0: 1, 3: 0.375}, rel=0.02)


def test_rounding_of_a_layer_that_was_passed_has_no_hessian(seen_by) -> None:
    assert seen_by([1, 0])[0] == 0


_MEASURED = """
import sys
import threading
from pathlib import Path
import torch
from torch import nn
from pilotlight_loader import bake
from pilotlight_loader.freed_memory import give_back
from pilotlight_loader.quantize.convert import quantize_baked
from pilotlight_loader.quantize.matrix import INT8
from pilotlight_platform.engine.calibration import GptqRounding

torch.set_num_threads(1)
LAYERS, WIDTH, ROWS, DOWN = map(int, sys.argv[2:])
PROJECTIONS = ["up", "down"][: 1 + DOWN]
WEIGHTS = [f"layers.{at}.{name}.weight" for at in range(LAYERS) for name in PROJECTIONS]

def anonymous():
    line = next(l for l in open("/proc/self/status") if l.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(WIDTH, ROWS, bias=False, dtype=torch.bfloat16)
        if DOWN:
            self.down = nn.Linear(ROWS, WIDTH, bias=False, dtype=torch.bfloat16)
        for weight in self.parameters():
            weight.requires_grad_(False).normal_(0, 0.1)

    def forward(self, hidden_states):
        wide = self.up(hidden_states)
        return self.down(wide) if DOWN else wide[..., :WIDTH]

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids, use_cache):
        hidden = torch.randn(1, input_ids.shape[1], WIDTH).bfloat16()
        for layer in self.layers:
            hidden = layer(hidden)

model, directory = Model(), Path(sys.argv[1])
baked = bake(model, directory / "plain.safetensors", order=WEIGHTS, metadata={})
mapped = baked.map()  # as transformers has a source's weights
for name, weight in mapped.tensors().items():
    model.get_parameter(name).data = weight
windows = [torch.ones(1, 32, dtype=torch.long)] * 4
rounding = GptqRounding(model, windows, directory, WEIGHTS)
give_back()
before, seen, ended = anonymous(), [], threading.Event()

def look():
    while not ended.wait(0.001):
        seen.append(anonymous())

looking = threading.Thread(target=look)
looking.start()
try:
    quantize_baked(
        baked,
        directory / "quantized.safetensors",
        dict.fromkeys(WEIGHTS, INT8),
        rounding,
        progress=lambda done, total: seen.append(anonymous()),
    )
finally:
    ended.set()
looking.join()
print(max(seen) - before)
"""


def peak_of(directory: Path, layers: int, width: int, rows: int, *, down: bool) -> int:
    sizes = [layers, width, rows, int(down)]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(directory), *map(str, sizes)],
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
    )
    return int(done.stdout)


def test_quantizing_with_gptq_holds_one_layer_at_a_time(tmp_path) -> None:
    layer_bytes = 32768 * 128 * 2

    peak = peak_of(tmp_path, 12, 128, 32768, down=False)

    assert peak < 5 * layer_bytes + (48 << 20)  # of 12; the writer has a chunk
    assert len(list(tmp_path.iterdir())) == 2


def test_quantizing_with_gptq_holds_a_wide_weights_hessian_once(tmp_path) -> None:
    layer_bytes, hessian_bytes = 2 * 128 * 4096 * 2, 4096 * 4096 * 4

    peak = peak_of(tmp_path, 3, 128, 4096, down=True)

    assert peak < hessian_bytes + 5 * layer_bytes + (40 << 20)
