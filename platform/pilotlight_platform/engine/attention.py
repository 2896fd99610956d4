"""Attention of one token in bfloat16: by a compiled kernel, or more than one query per product.

The kernel is for CPUs with AVX2 alone (one thread, 16 heads of 64, 8 of them with keys, 130 and
1000 columns: 32 and 121 us, torch's two rows as below 60 and 329). Elsewhere it is torch's, which
has a slow path for a single query. Measured (torch 2.13, AVX-512, two cores, 16 heads
of 64), microseconds for 130 and 1000 columns: 8 key heads, `enable_gqa`, which is what transformers
asks for, 100 and 765; the two queries of each key head as two rows, 22 and 102. With 16 key heads
115 and 736; each query twice 56 and 194. In float32 one row takes 14 and 79: left as it is.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from pilotlight_loader.kernels import chosen
from pilotlight_loader.kernels.bfloat_attention import fits

_NAME = "pilotlight_rows"
_REPLACED = "sdpa"
# Of what transformers may hand over: its own function knows what they mean.
_CHANGED_BY = ("position_bias", "softcap", "cache", "s_aux")


def attend_by_rows(module: Any) -> None:
    """Let *module*, a transformers model that uses torch's attention, use this one."""
    config = module.config
    if (
        getattr(module, "_supports_attention_backend", False)
        and config._attn_implementation == _REPLACED
        and not _asks(module)
    ):
        config._attn_implementation = _NAME
        if any(tensor.dtype == torch.bfloat16 for tensor in module.parameters()):
            chosen.bfloat_attention()  # compiled before a request, not by one


def _asks(module: Any) -> bool:
    """Whether its code asks which attention it has: under another name it would go another way."""
    try:
        return f'"{_REPLACED}"' in inspect.getsource(sys.modules[type(module).__module__])
    except OSError:  # code without its source: nobody knows
        return True


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # [B, heads, queries, width]
    key: torch.Tensor,  # [B, key heads, L, width]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' sdpa_attention_forward(): [B, queries, heads, width], and no weights.

    Another rounding of the same sums.
    """
    rows, heads, queries, width = query.shape
    if (
        queries > 1
        or query.dtype != torch.bfloat16
        or attention_mask is not None  # of rows that are padded: transformers packs those itself
        or kwargs.get("dropout")
        or any(kwargs.get(name) is not None for name in _CHANGED_BY)
    ):
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return result
    kernel = chosen.bfloat_attention() if fits(query, key, value) else None
    if kernel is not None:
        scale = kwargs.get("scaling")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        return kernel.attend(query, key, value, scale), None
    key_heads = key.shape[1]
    if heads == key_heads:
        query = query.repeat(1, 1, 2, 1)
    else:
        query = query.reshape(rows, key_heads, heads // key_heads, width)
    output = functional.scaled_dot_product_attention(query, key, value, scale=kwargs.get("scaling"))
    if heads == key_heads:
        output = output[:, :, :1]
    return output.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(_NAME, attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
