from __future__ import annotations

import pytest
import torch
from support.quantized_layers import LAYER, WEIGHT, golden, quantized_source

from pilotlight_loader.errors import QuantizedFormatError

PACKED, SCALE, ZERO = (f"{LAYER}.weight_{key}" for key in ("packed", "scale", "zero_point"))
SHAPE, G_IDX = f"{LAYER}.weight_shape", f"{LAYER}.weight_g_idx"


def refused(directory, tensors, config, match):
    with pytest.raises(QuantizedFormatError, match=match):
        quantized_source(directory, tensors, config)


def with_group(config, **changes):
    group = config["config_groups"]["group_0"] | changes
    return config | {"config_groups": {"group_0": group}}


def with_weights(config, **changes):
    return with_group(config, weights=config["config_groups"]["group_0"]["weights"] | changes)


@pytest.mark.parametrize("targets", [[LAYER], ["re:.*mlp.*"], ["Linear"], ["X", "re:.*up_proj$"]])
def test_compressed_target_may_be_a_name_a_pattern_or_a_class(targets, tmp_path):
    tensors, config, _ = golden("ct-int4-group")

    source = quantized_source(tmp_path, tensors, with_group(config, targets=targets))

    assert source.matrix(WEIGHT) is not None


def test_compressed_closest_group_wins(tmp_path):
    tensors, config, expected = golden("ct-int8-row")
    group = config["config_groups"]["group_0"]
    other = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}
    groups = {"group_0": other, "group_1": group | {"targets": ["re:.*up_proj"]}}

    source = quantized_source(
        tmp_path, tensors, config | {"config_groups": groups, "format": "naive-quantized"}
    )

    assert torch.equal(source.dense(WEIGHT).to(expected.dtype), expected)


def test_compressed_group_may_say_its_own_format(tmp_path):
    tensors, config, expected = golden("ct-int4-group")
    mixed = with_group(config | {"format": "mixed-precision"}, format="pack-quantized")

    source = quantized_source(tmp_path, tensors, mixed)

    assert torch.equal(source.dense(WEIGHT).to(expected.dtype), expected)


def test_compressed_group_index_that_was_never_filled_is_in_order(tmp_path):
    tensors, config, expected = golden("ct-int4-group")
    tensors[G_IDX] = torch.full((256,), -1, dtype=torch.int32)

    source = quantized_source(tmp_path, tensors, with_weights(config, actorder="group"))

    assert torch.equal(source.matrix(WEIGHT).dequantize().to(expected.dtype), expected)


def test_compressed_zero_points_of_old_symmetric_files_may_be_zero(tmp_path):
    tensors, config, _ = golden("ct-int4-group")
    tensors[ZERO] = torch.zeros(64, 4, dtype=torch.int8)
    assert quantized_source(tmp_path, tensors, config).matrix(WEIGHT) is not None
    tensors[ZERO][3, 1] = 1

    refused(tmp_path, tensors, config, f"{ZERO}.*is not 0")


def test_compressed_columns_need_not_fill_their_words(tmp_path):
    codes = torch.arange(8) - 4
    word = sum(int(code + 8) << 4 * k for k, code in enumerate(codes))
    word -= (word >> 31) << 32
    tensors = {
        PACKED: torch.full((2, 1), word, dtype=torch.int32),
        SCALE: torch.ones(2, 1).bfloat16(),
        SHAPE: torch.tensor([2, 5]),
    }
    weights = {"num_bits": 4, "strategy": "channel", "symmetric": True}
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    config["config_groups"] = {"a": {"targets": ["Linear"], "weights": weights}}

    read = quantized_source(tmp_path, tensors, config).dense(WEIGHT)

    assert torch.equal(read, codes[:5].float().expand(2, 5))


@pytest.mark.parametrize("key", ["weight_packed", "weight_shape", "weight_zero_point"])
def test_compressed_missing_tensor_is_named(key, tmp_path):
    tensors, config, _ = golden("ct-int4-group-zeros")
    del tensors[f"{LAYER}.{key}"]

    refused(tmp_path, tensors, config, f"{LAYER}.{key}.*missing")


def test_compressed_missing_scale_leaves_codes_without_one(tmp_path):
    for name in ("ct-int4-group", "ct-int8-row", "ct-fp8-row"):
        tensors, config, _ = golden(name)
        del tensors[SCALE]

        refused(tmp_path, tensors, config, f"{LAYER}.*(no quantized weight|without a scale)")


@pytest.mark.parametrize(
    ("name", "spoil", "match"),
    [
        (PACKED, lambda t: t[:, 1:], r"does not hold \[64, 256\]"),
        (PACKED, lambda t: t.long(), "must be I32"),
        (SHAPE, lambda t: t * 2, "does not hold"),
        (SHAPE, lambda t: -t, "does not hold"),
        (SHAPE, lambda t: t[:1], "must be"),
        (SCALE, lambda t: t[:, :2], r"\[64, 2\], must be \[64, 4\]"),
        (SCALE, lambda t: t.to(torch.int8), "is I8"),
        (ZERO, lambda t: t[:2], r"\[2, 4\], must be \[8, 4\]"),
        (ZERO, lambda t: t.float(), "is F32, must be I8"),
    ],
)
def test_compressed_broken_tensor_is_refused_by_name(name, spoil, match, tmp_path):
    tensors, config, _ = golden("ct-int4-group-zeros")
    tensors[name] = spoil(tensors[name])

    refused(tmp_path, tensors, config, f"{LAYER}.weight_.*{match}")


@pytest.mark.parametrize("value", [-1, 4])
def test_compressed_group_index_out_of_range_is_refused(value, tmp_path):
    tensors, config, _ = golden("ct-int4-act")
    tensors[G_IDX][7] = value

    refused(tmp_path, tensors, config, f"{G_IDX}.*names groups")


def test_compressed_fp8_with_a_nan_is_refused(tmp_path):
    tensors, config, _ = golden("ct-fp8-row")
    tensors[WEIGHT].view(torch.uint8)[1, 1] = 0xFF
    source = quantized_source(tmp_path, tensors, config)

    with pytest.raises(QuantizedFormatError, match=f"{WEIGHT}.*NaN"):
        source.matrix(WEIGHT)


def test_compressed_layer_that_is_ignored_has_no_codes(tmp_path):
    tensors, config, _ = golden("ct-int4-group")

    refused(tmp_path, tensors, config | {"ignore": ["re:.*mlp"]}, f"{SCALE}.*ignores the layer")


def test_compressed_layer_of_no_group_is_refused(tmp_path):
    tensors, config, _ = golden("ct-int4-group")

    refused(tmp_path, tensors, with_group(config, targets=["Conv2d"]), f"{SCALE}.*no group")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c | {"format": "nvfp4-pack-quantized"}, "'nvfp4-pack-quantized', supported"),
        (lambda c: c | {"format": "mxfp4-pack-quantized"}, "'mxfp4-pack-quantized', supported"),
        (lambda c: c | {"format": "marlin-24"}, "'marlin-24', supported"),
        (lambda c: c | {"format": "float-quantized"}, "float-quantized does not hold"),
        (lambda c: c | {"quantization_status": "frozen"}, "supported: compressed"),
        (lambda c: c | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "supported: dense"),
        (lambda c: c | {"transform_config": {"a": 1}}, "rotates"),
        (lambda c: c | {"config_groups": {}}, "quantize no weights"),
        (lambda c: c | {"config_groups": []}, "must be an object"),
        (lambda c: c | {"ignore": ["re:(a+)+"]}, "ignore .* repeats a group"),
        (lambda c: with_weights(c, num_bits=3), "supported: 4, 8"),
        (lambda c: with_weights(c, dynamic=True), "dynamic is true"),
        (lambda c: with_weights(c, group_size=0), "group_size is 0"),
        (lambda c: with_weights(c, group_size=96), "do not divide 256"),
        (lambda c: with_weights(c, strategy="tensor_group"), "supported: tensor"),
        (lambda c: with_weights(c, strategy="block"), "block_structure"),
        (lambda c: with_weights(c, actorder="row"), "actorder"),
        (lambda c: with_weights(c, actorder="group"), f"{G_IDX}.*missing"),
    ],
)
def test_compressed_config_that_is_not_read_is_refused(change, match, tmp_path):
    tensors, config, _ = golden("ct-int4-group")

    refused(tmp_path, tensors, change(config), match)
