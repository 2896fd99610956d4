"""Which weights are quantized, and how."""

import pytest
import torch
from torch import nn

from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, Scheme
from pilotlight_loader.quantize.rule import (
    is_skipped,
    plan_schemes,
    scheme_for,
    sensitive_weights,
)

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


def stack(layers: int, **shapes: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {
        f"model.layers.{at}.mlp.{name}.weight": shape
        for at in range(layers)
        for name, shape in shapes.items()
    }


def places(names: set[str]) -> set[int]:
    return {int(name.split(".")[2]) for name in names}


@pytest.mark.parametrize("kind", ["int4", "fp8"])
@pytest.mark.parametrize(("layers", "ends"), [(3, set()), (4, {0, 3}), (12, {0, 11})])
def test_rule_holds_the_first_and_the_last_layer_sensitive(kind, layers, ends) -> None:
    assert places(sensitive_weights(kind, stack(layers, up=SHAPE))) == ends


def test_rule_does_not_take_experts_for_layers() -> None:
    weights = {f"model.layers.0.experts.{at}.up.weight": SHAPE for at in range(8)}

    assert sensitive_weights("int4", weights) == set()


@pytest.mark.parametrize(("kind", "found"), [("int4", {"k_proj", "v_proj"}), ("fp8", set())])
def test_rule_holds_keys_and_values_of_several_heads_sensitive(kind, found) -> None:
    weights = stack(1, q_proj=SHAPE, k_proj=(256, 1024), v_proj=(256, 1024), o_proj=SHAPE)

    assert {name.split(".")[4] for name in sensitive_weights(kind, weights)} == found


def test_rule_takes_keys_and_values_of_one_head_each_as_any_other() -> None:
    weights = stack(1, q_proj=SHAPE, k_proj=SHAPE, v_proj=SHAPE)

    assert sensitive_weights("int4", weights) == set()


def test_rule_holds_no_layer_of_int8_sensitive() -> None:
    weights = stack(12, q_proj=SHAPE, k_proj=(256, 1024))

    assert sensitive_weights("int8", weights) == set()


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(*SHAPE)}) for _ in range(4))


DEEP = {f"layers.{at}.up.weight": SHAPE for at in range(4)}


@pytest.mark.parametrize(("kind", "inner", "ends"), [("int4", INT4, INT8), ("fp8", FP8, None)])
def test_rule_gives_sensitive_layers_more_bits(kind, inner, ends) -> None:
    schemes = plan_schemes(Deep(), kind, DEEP)

    assert [schemes.get(name) for name in DEEP] == [ends, inner, inner, ends]


@pytest.mark.parametrize(("kind", "scheme"), [("int4", INT4), ("fp8", FP8)])
def test_rule_gives_all_layers_the_same_bits_where_that_is_asked_for(kind, scheme) -> None:
    assert plan_schemes(Deep(), kind, DEEP, uniform=True) == dict.fromkeys(DEEP, scheme)
