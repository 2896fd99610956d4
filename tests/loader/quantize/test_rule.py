"""Which weights are quantized, and how."""

import pytest
import torch
from torch import nn

from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, TRELLIS, Scheme
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
        ("int4", {NAMES[0]: INT8, NAMES[1]: TRELLIS, NAMES[3]: INT8}),
        ("fp8", {NAMES[1]: FP8}),
    ],
)
def test_rule_keeps_routers_and_gives_outer_layers_more_bits(kind, expected) -> None:
    assert plan_schemes(Net(), kind, WEIGHTS) == expected


def test_rule_leaves_what_is_skipped() -> None:
    assert list(plan_schemes(Net(), "int4", WEIGHTS, ["layers.0", "hea?"])) == [NAMES[0]]


def test_rule_leaves_tiny_matrices() -> None:
    assert plan_schemes(Net(), "int4", {NAMES[1]: (8, 64)}) == {}


def test_rule_gives_equal_steps_where_no_kernels_take_a_trellis() -> None:
    theirs = plan_schemes(Net(), "int4", WEIGHTS)

    assert plan_schemes(Net(), "int4", WEIGHTS, trellis=False) == theirs | {NAMES[1]: INT4}


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_rule_gives_other_kinds_with_and_without_a_trellis_alike(kind) -> None:
    schemes = plan_schemes(Net(), kind, WEIGHTS, trellis=False)

    assert schemes == plan_schemes(Net(), kind, WEIGHTS)


@pytest.mark.parametrize(("trellis", "kind"), [(True, "trellis"), (False, "int4")])
@pytest.mark.parametrize(
    ("rows", "columns", "group"),
    [(64, 256, 128), (64, 320, 64), (64, 352, 32), (64, 344, None), (60, 256, None)],
)
def test_rule_gives_int8_where_the_int4_kernels_refuse(rows, columns, group, trellis, kind) -> None:
    expected = INT8 if group is None else Scheme(kind, group)

    assert scheme_for("int4", rows, columns, trellis=trellis) == expected


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
    weights = stack(1, q_proj=SHAPE, k_proj=(256, 1024), v_proj=(256, 1024), up_proj=SHAPE)

    assert {name.split(".")[4] for name in sensitive_weights(kind, weights)} == found


def test_rule_takes_keys_and_values_of_one_head_each_as_any_other() -> None:
    weights = stack(1, q_proj=SHAPE, k_proj=SHAPE, v_proj=SHAPE)

    assert sensitive_weights("int4", weights) == set()


def test_rule_holds_no_layer_of_int8_sensitive() -> None:
    weights = stack(12, q_proj=SHAPE, k_proj=(256, 1024))

    assert sensitive_weights("int8", weights) == set()


ATTENTIONS = [
    "model.layers.1.self_attn",
    "h.1.attn",
    "layer.1.attention",
    "1.self_attention",
    "attn",
]


@pytest.mark.parametrize("holder", ATTENTIONS)
@pytest.mark.parametrize("name", ["o_proj", "out_proj", "dense", "wo"])
def test_rule_holds_what_attention_puts_out_sensitive_for_int4(holder, name) -> None:
    weight = f"{holder}.{name}.weight"

    assert sensitive_weights("int4", {weight: SHAPE}) == {weight}


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_rule_holds_what_attention_puts_out_as_any_other_for_8_bits(kind) -> None:
    assert sensitive_weights(kind, {"model.layers.1.self_attn.o_proj.weight": SHAPE}) == set()


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.qkv_proj.weight",
        "model.layers.1.mlp.dense.weight",
        "model.layers.1.mlp.out_proj.weight",
        "model.layers.1.self_attn.o_proj.lora.weight",
        "model.layers.1.self_attn.dense_h_to_4h.weight",
        "model.layers.1.o_proj.weight",
    ],
)
def test_rule_takes_what_only_sounds_like_attention_as_any_other(name) -> None:
    assert sensitive_weights("int4", {name: SHAPE}) == set()


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            attention = nn.ModuleDict({"q_proj": nn.Linear(*SHAPE), "dense": nn.Linear(*SHAPE)})
            mlp = nn.ModuleDict({"up": nn.Linear(*SHAPE), "dense": nn.Linear(*SHAPE)})
            self.layers = nn.ModuleList([nn.ModuleDict({"attention": attention, "mlp": mlp})])


ATTENDING = {name: SHAPE for name, _ in Attending().named_parameters() if name.endswith("weight")}
OUTPUT = "layers.0.attention.dense.weight"


@pytest.mark.parametrize(("trellis", "scheme"), [(True, TRELLIS), (False, INT4)])
def test_rule_gives_int8_to_what_attention_puts_out(trellis, scheme) -> None:
    schemes = plan_schemes(Attending(), "int4", ATTENDING, trellis=trellis)

    assert schemes == dict.fromkeys(ATTENDING, scheme) | {OUTPUT: INT8}


def test_rule_gives_what_attention_puts_out_the_same_bits_where_that_is_asked_for() -> None:
    schemes = plan_schemes(Attending(), "int4", ATTENDING, uniform=True)

    assert schemes == dict.fromkeys(ATTENDING, TRELLIS)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_rule_gives_what_attention_puts_out_no_other_8_bits(kind) -> None:
    schemes = plan_schemes(Attending(), kind, ATTENDING)

    assert schemes == dict.fromkeys(ATTENDING, Scheme(kind))


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(*SHAPE)}) for _ in range(4))


DEEP = {f"layers.{at}.up.weight": SHAPE for at in range(4)}


@pytest.mark.parametrize(("kind", "inner", "ends"), [("int4", TRELLIS, INT8), ("fp8", FP8, None)])
def test_rule_gives_sensitive_layers_more_bits(kind, inner, ends) -> None:
    schemes = plan_schemes(Deep(), kind, DEEP)

    assert [schemes.get(name) for name in DEEP] == [ends, inner, inner, ends]


@pytest.mark.parametrize(("kind", "scheme"), [("int4", TRELLIS), ("fp8", FP8)])
def test_rule_gives_all_layers_the_same_bits_where_that_is_asked_for(kind, scheme) -> None:
    assert plan_schemes(Deep(), kind, DEEP, uniform=True) == dict.fromkeys(DEEP, scheme)
