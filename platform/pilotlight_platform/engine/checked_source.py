"""A source of which all is known that can be without reading its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from pilotlight_loader import Checkpoint, LoaderError, open_checkpoint
from pilotlight_loader.quantize.formats.quantized_source import QuantizedSource
from pilotlight_loader.sources.local import LocalOptions
from pilotlight_platform.engine.quantized_source import quantized_source
from pilotlight_platform.errors import SourceError
from pilotlight_platform.schemas.model import BakePhase

Report = Callable[[BakePhase, str, int, int], None]  # phase, message, bytes done, bytes in all

_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_REMOTE_CODE_FILES = ("config.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class CheckedSource:
    """A checkpoint that looks as if it can be served."""

    path: Path
    checkpoint: Checkpoint
    config: Any  # transformers'
    quantized: QuantizedSource | None  # by others

    def digest(self, report: Report) -> str:
        """Of every byte that decides about the answers. Raises SourceError."""
        try:
            return self.checkpoint.digest(
                lambda done, total: report("check", "reading the checkpoint", done, total)
            )
        except LoaderError as error:
            raise SourceError(str(error)) from error


def check_source(source: Path, report: Report) -> CheckedSource:
    """Check the checkpoint in *source*.

    Raises SourceError if it cannot be served, naming the file and the reason.
    """
    report("check", f"checking {source}", 0, 0)
    if not source.is_dir():
        raise SourceError(f"{source}: no such directory")
    try:
        # Through the page cache: what the digest reads, transformers reads again.
        checkpoint = open_checkpoint(source, LocalOptions(direct=False))
    except LoaderError as error:
        raise SourceError(str(error)) from error
    config = read_config(source, checkpoint)
    return CheckedSource(source, checkpoint, config, quantized_source(source, checkpoint))


def _refuse_remote_code(source: Path) -> None:
    for name in _REMOTE_CODE_FILES:
        if (source / name).is_file() and "auto_map" in _read_json(source / name):
            raise SourceError(
                f"{source / name}: asks for the model's own code (auto_map), which is not run; "
                "if transformers has this architecture itself, remove auto_map"
            )


def read_config(source: Path, checkpoint: Checkpoint) -> Any:
    """transformers' config in *source* of a causal language model, fit for *checkpoint*.

    Raises SourceError, also for a model with code of its own.
    """
    _refuse_remote_code(source)
    path = source / "config.json"
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    raw = _read_json(path)
    _refuse_absurd_depth(path, raw, checkpoint)
    model_type = raw.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise SourceError(f"{path}: model_type {model_type!r} is not known to transformers")
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each config class validates in its own way
        raise SourceError(f"{path}: {error}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise SourceError(f"{path}: {model_type!r} is no causal language model")
    return config


def _refuse_absurd_depth(path: Path, raw: dict[str, Any], checkpoint: Checkpoint) -> None:
    """A layer has a weight at least. Before transformers reads it: some configs make a list of as
    many entries, and the modules of a million layers take hours.
    """
    text = raw.get("text_config")
    for values in (raw, text if isinstance(text, dict) else {}):
        for key in _DEPTHS:
            layers = values.get(key)
            if isinstance(layers, int) and layers > len(checkpoint.tensors):
                raise SourceError(
                    f"{path}: {layers} layers, but the checkpoint has "
                    f"{len(checkpoint.tensors)} tensors in all"
                )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path}: not a JSON object")
    return content
