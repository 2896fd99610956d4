from __future__ import annotations

import pytest
import torch
from support.quantized_layers import LAYER, WEIGHT, golden, quantized_source

from pilotlight_loader.errors import QuantizedFormatError

QWEIGHT, QZEROS, SCALES, G_IDX = (f"{LAYER}.{k}" for k in ("qweight", "qzeros", "scales", "g_idx"))


def refused(directory, tensors, config, match):
    with pytest.raises(QuantizedFormatError, match=match):
        quantized_source(directory, tensors, config)


def test_gptq_v2_stores_the_zero_points_as_they_are(tmp_path):
    tensors, config, expected = golden("gptq-4-32")
    tensors[QZEROS] = tensors[QZEROS] + 0x11111111  # GPTQModel's own conversion

    source = quantized_source(tmp_path, tensors, config | {"checkpoint_format": "gptq_v2"})

    assert torch.equal(source.dense(WEIGHT).half(), expected)


def test_gptq_without_g_idx_has_its_groups_in_order(tmp_path):
    tensors, config, expected = golden("gptq-4-128")
    del tensors[G_IDX]

    source = quantized_source(tmp_path, tensors, config)

    assert torch.equal(source.dense(WEIGHT).half(), expected)


def test_gptq_act_order_with_groups_in_order_keeps_its_codes(tmp_path):
    """desc_act with static groups, or one group for the row: AutoGPTQ puts the columns back."""
    tensors, config, _ = golden("gptq-4-128")

    source = quantized_source(tmp_path, tensors, config | {"desc_act": True})

    assert source.matrix(WEIGHT) is not None


def test_gptq_last_group_may_be_short(tmp_path):
    tensors, config, _ = golden("gptq-4-128")
    index = torch.arange(256).int() // 160
    whole = quantized_source(tmp_path, tensors | {G_IDX: index}, config | {"group_size": 160})
    expected = whole.dense(WEIGHT)
    del tensors[G_IDX]

    source = quantized_source(tmp_path, tensors, config | {"group_size": 160})

    assert source.matrix(WEIGHT) is None
    assert torch.equal(source.dense(WEIGHT), expected)


@pytest.mark.parametrize("name", [QWEIGHT, QZEROS, SCALES])
def test_gptq_missing_tensor_is_named(name, tmp_path):
    tensors, config, _ = golden("gptq-4-128")
    del tensors[name]

    left = G_IDX if name == QWEIGHT else name  # without codes there is no weight to name
    refused(tmp_path, tensors, config, f"{left}.*(missing|no quantized weight)")


def test_gptq_act_order_needs_its_g_idx(tmp_path):
    tensors, config, _ = golden("gptq-4-act")
    del tensors[G_IDX]

    refused(tmp_path, tensors, config, f"{G_IDX}.*missing")


@pytest.mark.parametrize(
    ("name", "spoil", "match"),
    [
        (QWEIGHT, lambda t: t[:, :-1], "fill no whole words"),
        (QWEIGHT, lambda t: t[:-1], "must be"),
        (QWEIGHT, lambda t: t.long(), "I64, must be I32"),
        (QWEIGHT, lambda t: t[None], "2 dimensions"),
        (QWEIGHT, lambda t: t[:0], "empty"),
        (QZEROS, lambda t: t[:1], r"\[1, 8\], must be \[2, 8\]"),
        (QZEROS, lambda t: t[:, :2], "must be"),
        (SCALES, lambda t: t.repeat(2, 1), r"\[4, 64\], must be \[2, 64\]"),
        (SCALES, lambda t: t.to(torch.int32), "is I32, must be F16"),
        (G_IDX, lambda t: t[:-1], "must be"),
        (G_IDX, lambda t: t + 1, "names groups 1 to 2 of 2"),
        (G_IDX, lambda t: t - 1, "names groups -1 to 0 of 2"),
        (G_IDX, lambda t: t.float(), "is F32"),
    ],
)
def test_gptq_broken_tensor_is_refused_by_name(name, spoil, match, tmp_path):
    tensors, config, _ = golden("gptq-4-128")
    tensors[name] = spoil(tensors[name])

    refused(tmp_path, tensors, config, f"{LAYER}.*{match}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gptq_scales_must_be_finite(value, tmp_path):
    tensors, config, _ = golden("gptq-4-128")
    tensors[SCALES][1, 3] = value
    source = quantized_source(tmp_path, tensors, config)

    with pytest.raises(QuantizedFormatError, match=f"{SCALES}.*NaN or infinite"):
        source.matrix(WEIGHT)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bits": 3}, "bits is 3, supported: 4, 8"),
        ({"bits": "4"}, "bits is '4'"),
        ({"bits": True}, "bits is True"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": "128"}, "whole number"),
        ({"desc_act": 1}, "true or false"),
        ({"checkpoint_format": "marlin"}, "'marlin', supported: gptq, gptq_v2"),
        ({"is_marlin_format": True}, "supported: gptq, gptq_v2"),
        ({"dynamic": {"+:.*mlp.*": {"bits": 8}}}, "dynamic changes"),
    ],
)
def test_gptq_variant_that_is_not_read_is_refused(change, match, tmp_path):
    tensors, config, _ = golden("gptq-4-128")

    refused(tmp_path, tensors, config | change, match)


def test_gptq_layers_that_dynamic_leaves_out_are_plain(tmp_path):
    tensors, config, _ = golden("gptq-4-128")

    source = quantized_source(tmp_path, tensors, config | {"dynamic": {"-:.*norm.*": {}}})

    assert source.plain == ("model.norm.weight",)
