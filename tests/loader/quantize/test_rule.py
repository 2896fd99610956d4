"""Which weights are quantized, and how."""

import pytest
import torch
from torch import nn

from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, Scheme
from pilotlight_loader.quantize.rule import is_skipped, plan_schemes, scheme_for

SHAPE = (1024, 1024)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.embed = nn.Embedding(*SHAPE)
            layer = nn.ModuleDict({"up": nn.Linear(*SHAPE), "router": nn.Linear(*SHAPE)})
            self.layers = nn.ModuleList([layer])
            self.head = nn.Linear(*SHAPE)


NAMES = ["embed.weight", "layers.0.up.weight", "layers.0.router.weight", "head.weight"]
WEIGHTS = dict.fromkeys(NAMES, SHAPE)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("int8", {NAMES[1]: INT8}),
        ("int4", {NAMES[0]: INT8, NAMES[1]: INT4, NAMES[3]: INT8}),
        ("fp8", {NAMES[1]: FP8}),
    ],
)
def test_rule_keeps_routers_and_gives_outer_layers_more_bits(kind, expected) -> None:
    assert plan_schemes(Net(), kind, WEIGHTS) == expected


def test_rule_leaves_what_is_skipped() -> None:
    assert list(plan_schemes(Net(), "int4", WEIGHTS, ["layers.0", "hea?"])) == [NAMES[0]]


def test_rule_leaves_tiny_matrices() -> None:
    assert plan_schemes(Net(), "int4", {NAMES[1]: (8, 64)}) == {}


@pytest.mark.parametrize(
    ("rows", "columns", "scheme"),
    [
        (64, 256, INT4),
        (64, 320, Scheme("int4", 64)),
        (64, 352, Scheme("int4", 32)),
        (64, 344, INT8),
        (60, 256, INT8),
    ],
)
def test_rule_gives_int8_where_the_int4_kernel_refuses(rows, columns, scheme) -> None:
    assert scheme_for("int4", rows, columns) == scheme


def test_rule_patterns_match_holders_and_whole_names_only() -> None:
    assert is_skipped("model.layers.1.mlp.up", ["model.layers.1"])
    assert not is_skipped("model.layers.10.mlp.up", ["model.layers.1"])
    assert is_skipped("model.layers.10.mlp.up", ["*.up"])
