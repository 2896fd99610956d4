"""What a bake with quantization holds in memory of its own, however many layers there are."""

import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS, WIDTH = 10, 768
LAYER_BYTES = (4 * WIDTH * WIDTH + 3 * WIDTH * 4 * WIDTH) * 2
SLACK_BYTES = 64 << 20  # what torch and transformers take at their first use; a chunk to write

_MEASURED = """
import sys
from pathlib import Path
import torch
from pilotlight_platform.engine.quantizing import Quantizing
from pilotlight_platform.engine.source import bake_source

def anonymous():
    line = next(l for l in open("/proc/self/status") if l.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
before = anonymous()
most = 0

def report(phase, message, done, total):
    global most
    most = max(most, anonymous() - before)

source, destination, kind = sys.argv[1:]
Path(destination).mkdir()
quantizing = Quantizing(kind, rounding="nearest")
bake_source(Path(source), Path(destination), dtype="auto", report=report, quantizing=quantizing)
print(most)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        vocab_size=512,
    )
    path = tmp_path_factory.mktemp("source")
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_bake_that_quantizes_holds_two_layers_at_most(kind, source, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(source), str(tmp_path / "baked"), kind],
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
    )

    assert int(done.stdout) < 2 * LAYER_BYTES + SLACK_BYTES  # of 10, which would be more
