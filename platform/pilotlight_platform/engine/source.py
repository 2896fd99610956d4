"""From a user's checkpoint to a baked one. Runs in a process of its own, off the cold path."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
)

from pilotlight_loader import (
    BakedCheckpoint,
    Checkpoint,
    LoaderError,
    bake,
    open_checkpoint,
    record_execution_order,
)
from pilotlight_loader.layout import PAD_PREFIX
from pilotlight_loader.quantize.formats.quantized_source import QuantizedSource
from pilotlight_loader.quantize.nearest import NearestRounding
from pilotlight_loader.quantize.rounding import Rounding
from pilotlight_loader.sources.local import LocalOptions
from pilotlight_platform.engine.calibration import CalibrationError, GptqRounding, windows_of
from pilotlight_platform.engine.chat import encode_messages
from pilotlight_platform.engine.packing import WEIGHTS_FILE, write_packed
from pilotlight_platform.engine.quantized_source import dequantized, quantized_source
from pilotlight_platform.engine.quantizing import (
    Quantizing,
    restore_quantized,
    write_quantized,
)
from pilotlight_platform.engine.skeleton import (
    context_length,
    load_tokenizer,
    straighten_output_input,
)
from pilotlight_platform.engine.sparsity import write_sparse
from pilotlight_platform.engine.time_limit import time_limit
from pilotlight_platform.engine.verify import probe_prompt, verify
from pilotlight_platform.errors import InvalidRequestError, SourceError
from pilotlight_platform.schemas.model import BakePhase

logger = logging.getLogger(__name__)

Report = Callable[[BakePhase, str, int, int], None]  # phase, message, bytes done, bytes in all

_DTYPES = frozenset({"float32", "bfloat16", "float16"})

# What a tokenizer may consist of, beside the weights and config.json.
_TOKENIZER_PATTERNS = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
_TEMPLATE_TIMEOUT_S = 5.0
_REMOTE_CODE_FILES = ("config.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class BakedSource:
    """What is known about a checkpoint once it is baked."""

    source_digest: str
    dtype: str
    architecture: str
    parameters: int  # tied ones once
    nbytes: int  # of the baked weights, in the larger of the two files that a worker may attach
    context_length: int  # 0: the model names no limit


def source_digest(source: Path, report: Report) -> str:
    """Check *source* and digest it: equal digests bake to equal revisions.

    Raises:
        SourceError: if the checkpoint cannot be served, naming the file and the reason.
    """
    return _digest(_check(source, report).checkpoint, report)


def bake_source(
    source: Path,
    destination: Path,
    *,
    dtype: str,
    report: Report,
    digest: str | None = None,
    quantizing: Quantizing | None = None,
    sparse: bool = False,
) -> BakedSource:
    """Bake *source* into the directory *destination*, and try it out as a worker would.

    Pass *digest* if `source_digest` was called before: it is not computed again.

    Raises:
        SourceError: if the checkpoint cannot be served, naming the file and the reason.
        VerificationError: if the baked checkpoint does not answer like its source.
    """
    checked = _check(source, report)
    checkpoint, config = checked.checkpoint, checked.config
    if digest is None:
        digest = _digest(checkpoint, report)
    report("load", f"loading {type(config).__name__}", 0, checkpoint.nbytes)
    model, unused = _load_checked(checked, source, destination, dtype, report)
    message = f"loaded; {len(unused)} tensors are not used: {unused[:5]}" if unused else "loaded"
    report("load", message, checkpoint.nbytes, checkpoint.nbytes)
    used_dtype = str(model.dtype).removeprefix("torch.")
    _save_side_files(source, destination, model, used_dtype)
    baked = _bake(model, destination, digest, report)
    tokenizer = load_tokenizer(source)
    baked = _quantize(model, baked, quantizing, checked.quantized, tokenizer, report)
    if sparse:
        baked = _compress(model, baked, report)
    packed = None
    if not baked.quantized and not baked.sparse:
        packed = _pack(model, destination, baked, report)
    straighten_output_input(model)  # the same kernels on both sides
    verify(destination, model, report, quantized=bool(baked.quantized))
    if packed is not None and not _is_verified(destination, model, report):
        packed.path.unlink()
        packed = None
    return BakedSource(
        source_digest=digest,
        dtype=used_dtype,
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        nbytes=max(baked.nbytes, 0 if packed is None else packed.nbytes),
        context_length=context_length(config) or 0,
    )


@dataclass(frozen=True, slots=True)
class _Checked:
    checkpoint: Checkpoint
    config: Any
    quantized: QuantizedSource | None  # by others


def _check(source: Path, report: Report) -> _Checked:
    """Whatever can be known without reading the weights."""
    report("check", f"checking {source}", 0, 0)
    if not source.is_dir():
        raise SourceError(f"{source}: no such directory")
    try:
        # Through the page cache: what the digest reads, transformers reads again.
        checkpoint = open_checkpoint(source, LocalOptions(direct=False))
    except LoaderError as error:
        raise SourceError(str(error)) from error
    _refuse_remote_code(source)
    config = _read_config(source)
    return _Checked(checkpoint, config, quantized_source(source, checkpoint))


def _refuse_remote_code(source: Path) -> None:
    for name in _REMOTE_CODE_FILES:
        if (source / name).is_file() and "auto_map" in _read_json(source / name):
            raise SourceError(
                f"{source / name}: asks for the model's own code (auto_map), which is not run; "
                "if transformers has this architecture itself, remove auto_map"
            )


def _read_config(source: Path) -> Any:
    path = source / "config.json"
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    raw = _read_json(path)
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path}: not a JSON object")
    return content


def _digest(checkpoint: Checkpoint, report: Report) -> str:
    try:
        return checkpoint.digest(
            lambda done, total: report("check", "reading the checkpoint", done, total)
        )
    except LoaderError as error:
        raise SourceError(str(error)) from error


def _load_checked(
    checked: _Checked, source: Path, destination: Path, dtype: str, report: Report
) -> tuple[Any, list[str]]:
    """What _load() gives, of plain weights; quantized ones are made plain in *destination*."""
    _check_dtype(dtype)
    quantized = checked.quantized
    if quantized is None:
        return _load(source, dtype)
    wanted = getattr(checked.config, "dtype", None) if dtype == "auto" else getattr(torch, dtype)
    wanted = wanted if isinstance(wanted, torch.dtype) else torch.bfloat16

    def progress(done: int, total: int) -> None:
        report("load", f"reading {quantized.name}", done, total)

    with dequantized(quantized, source, destination, wanted, progress) as plain:
        model, unused = _load(plain, dtype)
    return model, [name for name in unused if not name.startswith(PAD_PREFIX)]


def _check_dtype(dtype: str) -> None:
    if dtype != "auto" and dtype not in _DTYPES:
        raise SourceError(f"dtype {dtype!r}: not one of auto, {', '.join(sorted(_DTYPES))}")


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
    return model.eval().requires_grad_(False), sorted(info["unexpected_keys"])


def _save_side_files(source: Path, destination: Path, model: Any, dtype: str) -> None:
    model.config.dtype = dtype
    model.config.save_pretrained(destination)
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", destination / "generation_config.json")
    try:
        tokenizer = load_tokenizer(source)
    except Exception as error:  # each tokenizer class fails in its own way
        raise SourceError(f"{source}: the tokenizer cannot be loaded: {error}") from error
    if tokenizer is None:
        return
    _try_chat_template(source, tokenizer)
    for pattern in _TOKENIZER_PATTERNS:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, destination / path.name)
    if not (source / "tokenizer.json").is_file():
        # Converting a sentencepiece model takes seconds: once here, not in every worker.
        tokenizer.save_pretrained(destination)


def _try_chat_template(source: Path, tokenizer: Any) -> None:
    """A template is a program: in a worker it would hold up everybody's requests."""
    try:
        with time_limit(_TEMPLATE_TIMEOUT_S):
            encode_messages(tokenizer, [{"role": "user", "content": "Hello"}])
    except TimeoutError as error:
        raise SourceError(f"{source}: the chat template {error} for one short message") from error
    except InvalidRequestError as error:
        raise SourceError(f"{source}: {error.message}") from error


def _bake(model: Any, destination: Path, digest: str, report: Report) -> BakedCheckpoint:
    ids = torch.tensor([probe_prompt(model.get_input_embeddings().num_embeddings)])
    report("bake", "recording the order of execution", 0, 0)
    try:
        with torch.no_grad():
            order = record_execution_order(model, lambda: model(input_ids=ids, use_cache=False))
    except Exception as error:  # whatever the architecture raises
        raise SourceError(f"the model cannot run: {type(error).__name__}: {error}") from error
    try:
        return bake(
            model,
            destination / WEIGHTS_FILE,
            order=order,
            metadata={"source_digest": digest},
            progress=lambda done, total: report("bake", "writing the weights", done, total),
        )
    except LoaderError as error:
        raise SourceError(f"cannot bake: {error}") from error


def _pack(
    model: Any, destination: Path, baked: BakedCheckpoint, report: Report
) -> BakedCheckpoint | None:
    """The same weights for this CPU's kernel, if that is worth it and there is room."""

    def progress(done: int, total: int) -> None:
        report("bake", "writing the weights for this CPU's kernel", done, total)

    try:
        return write_packed(destination, baked, model, progress)
    except LoaderError as error:  # no room, most likely: the model is only slower without
        logger.warning("packed_weights_skipped reason=%s", error)
        message = f"no weights for this CPU's kernel: {error}"
        report("bake", message, baked.nbytes, baked.nbytes)
        return None


def _quantize(
    model: Any,
    baked: BakedCheckpoint,
    quantizing: Quantizing | None,
    source: QuantizedSource | None,
    tokenizer: Any | None,
    report: Report,
) -> BakedCheckpoint:
    """The weights in fewer bits, and *model* with what they stand for, to be compared with.

    Without a wish those that the source has in codes of ours; *baked* itself where there is none.
    """
    if quantizing is None and source is None:
        return baked
    message = f"quantizing to {quantizing.kind}" if quantizing else "keeping the source's codes"

    def progress(done: int, total: int) -> None:
        report("bake", message, done, total)

    try:
        rounding: Rounding = NearestRounding()
        if quantizing is not None and quantizing.rounding == "gptq":
            windows = windows_of(quantizing.text, tokenizer, context_length(model.config))
            rounding = GptqRounding(model, windows)
        quantized = write_quantized(model, baked, quantizing, rounding, progress, source)
        restore_quantized(model, quantized)
    except (LoaderError, CalibrationError) as error:
        raise SourceError(f"cannot quantize: {error}") from error
    return quantized


def _compress(model: Any, baked: BakedCheckpoint, report: Report) -> BakedCheckpoint:
    """The 2:4 sparse weights as values and positions."""
    if baked.quantized:
        raise SourceError("sparsity 2:4 is for weights that are not quantized")

    def progress(done: int, total: int) -> None:
        report("bake", "compressing 2:4 sparse weights", done, total)

    try:
        return write_sparse(model, baked, progress)
    except LoaderError as error:
        raise SourceError(f"cannot compress: {error}") from error


def _is_verified(destination: Path, model: Any, report: Report) -> bool:
    """Whether the packed weights answer like the source; if not, the plain ones do."""
    try:
        verify(destination, model, report, packed=True)
    except Exception as error:  # ours, or whatever the architecture makes of packed weights
        logger.warning("packed_weights_dropped reason=%r", error)
        report("verify", f"dropping the weights for this CPU's kernel: {error}", 1, 1)
        return False
    return True
