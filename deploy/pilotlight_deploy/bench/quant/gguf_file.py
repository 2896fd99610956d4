"""A sample Llama as GGUF, for llama.cpp: weights as they are, no vocabulary but its size."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def write_gguf(source: Path, destination: Path) -> None:
    """Write the Llama in *source*, one file of bf16, to *destination*, atomically."""
    import gguf  # noqa: PLC0415  # an optional peer's

    config = json.loads((source / "config.json").read_text())
    part = destination.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    with safe_open(source / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # no mapping
            tensor = file.get_tensor(name)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                tensor = _rotated(tensor, config["head_dim"])
            if tensor.dim() == 1:  # norms are float32 there
                writer.add_tensor(gguf_name(name), tensor.float().numpy())
            else:
                raw = tensor.contiguous().view(torch.uint8).numpy()
                writer.add_tensor(gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(destination)


def gguf_name(name: str) -> str:
    """llama.cpp's name of a transformers Llama's tensor. Raises KeyError for another's."""
    layer = name.removesuffix(".weight")
    if layer in _OUTER:
        return f"{_OUTER[layer]}.weight"
    number, _, rest = layer.removeprefix("model.layers.").partition(".")
    return f"blk.{int(number)}.{_LAYER[rest]}.weight"


def _rotated(weight: torch.Tensor, head: int) -> torch.Tensor:
    """llama.cpp turns neighbouring pairs of rows, transformers a row and that half a head below."""
    rows, columns = weight.shape
    halves = weight.view(rows // head, 2, head // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)
