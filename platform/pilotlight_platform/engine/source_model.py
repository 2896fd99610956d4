"""The model of a source in memory: complete, of plain weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from pilotlight_loader.layout import PAD_PREFIX
from pilotlight_platform.engine.checked_source import CheckedSource, Report
from pilotlight_platform.engine.quantized_source import dequantized
from pilotlight_platform.errors import SourceError

_DTYPES = frozenset({"float32", "bfloat16", "float16"})


def load_source_model(
    source: CheckedSource, workspace: Path, dtype: str, report: Report
) -> tuple[Any, list[str]]:
    """The model of *source*, and the names in the checkpoint that it does not use.

    What others quantized is made plain in *workspace* first. Raises SourceError.
    """
    if dtype != "auto" and dtype not in _DTYPES:
        raise SourceError(f"dtype {dtype!r}: not one of auto, {', '.join(sorted(_DTYPES))}")
    quantized = source.quantized
    if quantized is None:
        return _load(source.path, dtype)
    wanted = getattr(source.config, "dtype", None) if dtype == "auto" else getattr(torch, dtype)
    wanted = wanted if isinstance(wanted, torch.dtype) else torch.bfloat16

    def progress(done: int, total: int) -> None:
        report("load", f"reading {quantized.name}", done, total)

    with dequantized(quantized, source.path, workspace, wanted, progress) as plain:
        model, unused = _load(plain, dtype)
    return model, [name for name in unused if not name.startswith(PAD_PREFIX)]


def _load(source: Path, dtype: str) -> tuple[Any, list[str]]:
    """The source model and the names in the checkpoint that it does not use.

    It is complete: a weight that transformers makes up at random would be served silently.
    """
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    except Exception as error:  # transformers raises all kinds
        raise SourceError(f"{source}: {type(error).__name__}: {error}") from error
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if info[problem]:
            names = ", ".join(sorted(map(str, info[problem]))[:5])
            kind = problem.replace("_", " ")
            raise SourceError(f"{source}: {len(info[problem])} {kind}, such as {names}")
    _refuse_cut_model(source, model, info["unexpected_keys"])
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise SourceError(
            f"{source}: {type(model).__name__} keeps a state instead of keys and values, as Mamba "
            "and RWKV do: such models cannot be served yet"
        )
    return model.eval().requires_grad_(False), sorted(info["unexpected_keys"])


def _refuse_cut_model(source: Path, model: Any, unused: Iterable[str]) -> None:
    """Weights of more layers than the config asks for: it would answer, and not as it was trained.

    What a model leaves out on purpose (extra layers for speculation) transformers does not name.
    """
    places = {_without_numbers(name) for name in model.state_dict()}
    layers = sorted(name for name in unused if _without_numbers(name) in places)
    if layers:
        raise SourceError(
            f"{source}: config.json makes a model without {len(layers)} of the weights, such as "
            f"{layers[0]}: its number of layers (or experts) is too small"
        )


def _without_numbers(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".#", name)
