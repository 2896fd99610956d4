"""From a user's checkpoint to a baked one. Runs in a process of its own, off the cold path."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import DynamicCache

from pilotlight_loader import (
    BakedCheckpoint,
    DiskFullError,
    LoaderError,
    bake,
    record_execution_order,
)
from pilotlight_loader.hastened import hastened
from pilotlight_loader.quantize.matrix import Scheme
from pilotlight_loader.quantize.nearest import NearestRounding
from pilotlight_loader.quantize.rounding import Rounding
from pilotlight_loader.quantize.stored import Device
from pilotlight_platform.engine.cache import CacheGrowth
from pilotlight_platform.engine.calibration import GptqRounding
from pilotlight_platform.engine.calibration_windows import (
    CalibrationError,
    own_windows,
    text_windows,
)
from pilotlight_platform.engine.checked_source import CheckedSource, Report, check_source
from pilotlight_platform.engine.packing import WEIGHTS_FILE, write_packed
from pilotlight_platform.engine.quantizing import (
    Quantizing,
    quantization_name,
    restore_quantized,
    schemes_of,
    write_quantized,
)
from pilotlight_platform.engine.side_files import save_side_files
from pilotlight_platform.engine.skeleton import (
    context_length,
    hasten_products,
    load_tokenizer,
    straighten_output_input,
)
from pilotlight_platform.engine.source_model import load_source_model
from pilotlight_platform.engine.sparsity import write_sparse
from pilotlight_platform.engine.verify import probe_prompt, verify
from pilotlight_platform.errors import SourceError

logger = logging.getLogger(__name__)

# More than these are rounded with gptq on request only. One thread of a busy machine was at 70 %
# of 0.3e9 after seven minutes; a bake may take six hours.
AUTO_GPTQ_WEIGHTS = 500_000_000
AUTO_GPTQ_TRELLIS_WEIGHTS = 100_000_000  # whose codes are searched for: 13 us for each weight


@dataclass(frozen=True, slots=True)
class BakedSource:
    """What is known about a checkpoint once it is baked."""

    source_digest: str
    dtype: str
    quantization: str  # "none", "int8", …; "int4 (gptq)" where the codes are the source's own
    rounding: Literal["nearest", "gptq"] | None  # of this bake; None: it was asked for none
    architecture: str
    parameters: int  # tied ones once
    nbytes: int  # of the baked weights, in the larger of the two files that a worker may attach
    context_length: int  # 0: the model names no limit
    cache_nbytes: int  # of a request that fills it: keys and values


def bake_source(
    source: Path,
    destination: Path,
    *,
    dtype: str,
    report: Report,
    digest: str | None = None,
    quantizing: Quantizing | None = None,
    sparse: bool = False,
    device: Device = "cpu",
) -> BakedSource:
    """Bake *source* into the directory *destination*, and try it out as a worker would.

    Codes stand as *device* multiplies with them; they are tried out on this CPU either way.
    Pass *digest* if CheckedSource.digest() was called before: it is not computed again.

    Raises:
        SourceError: if the checkpoint cannot be served, naming the file and the reason.
        VerificationError: if the baked checkpoint does not answer like its source.
    """
    checked = check_source(source, report)
    if digest is None:
        digest = checked.digest(report)
    nbytes = checked.checkpoint.nbytes
    report("load", f"loading {type(checked.config).__name__}", 0, nbytes)
    model, unused = load_source_model(checked, destination, dtype, report)
    message = f"loaded; {len(unused)} tensors are not used: {unused[:5]}" if unused else "loaded"
    report("load", message, nbytes, nbytes)
    used_dtype = str(model.dtype).removeprefix("torch.")
    save_side_files(source, destination, model, used_dtype)
    baked = _bake(model, destination, digest, report)
    baked, rounding = _quantize(model, baked, quantizing, checked, report, device)
    if sparse:
        baked = _compress(model, baked, report)
    packed = None
    if not baked.quantized and not baked.sparse:
        packed = _pack(model, destination, baked, report)
    straighten_output_input(model)  # the same kernels on both sides, as a skeleton has them
    hasten_products(model)
    verify(destination, model, report, quantized=bool(baked.quantized))
    if packed is not None and not _is_verified(destination, model, report):
        packed.path.unlink()
        packed = None
    return BakedSource(
        source_digest=digest,
        dtype=used_dtype,
        quantization=quantization_name(model, baked, quantizing, checked.quantized),
        rounding=rounding,
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        nbytes=max(baked.nbytes, 0 if packed is None else packed.nbytes),
        context_length=context_length(checked.config) or 0,
        cache_nbytes=_cache_nbytes(model),
    )


def _cache_nbytes(model: Any) -> int:
    """Of a request that fills the context. Seen, not told by the config: models name it variously.

    The model has run by now, so this raises nothing new.
    """
    prompt = probe_prompt(model.get_input_embeddings().num_embeddings)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=torch.tensor([prompt]), past_key_values=cache, use_cache=True)
    return CacheGrowth.of(cache).nbytes(context_length(model.config) or 0)


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
    source: CheckedSource,
    report: Report,
    device: Device,
) -> tuple[BakedCheckpoint, Literal["nearest", "gptq"] | None]:
    """The weights in fewer bits, how they were rounded, and *model* with what they stand for.

    Without a wish those that the source has in codes of ours; *baked* itself where there is none.
    """
    if quantizing is None and source.quantized is None:
        return baked, None
    message = f"quantizing to {quantizing.kind}" if quantizing else "keeping the source's codes"

    def progress(done: int, total: int) -> None:
        report("bake", message, done, total)

    def write(rounding: Rounding) -> BakedCheckpoint:
        return write_quantized(
            model, baked, quantizing, rounding, progress, source.quantized, device
        )

    try:
        quantized = None
        rounding: Literal["nearest", "gptq"] = "nearest"
        if quantizing is not None and quantizing.rounding != "nearest":
            try:
                schemes, _ = schemes_of(model, baked, quantizing, source.quantized, device)
                _check_patience(model, quantizing, schemes)
                windows = _calibration_windows(model, quantizing.text, source.path, report)
                quantized = write(GptqRounding(model, windows, baked.path.parent, schemes))
                rounding = "gptq"
            except Exception as error:  # ours, or whatever the architecture makes of it
                if _may_pass(error):
                    raise  # what is rounded otherwise is baked once and for all
                if quantizing.rounding == "gptq" or quantizing.text is not None:
                    raise
                if not isinstance(error, CalibrationError):
                    logger.exception("gptq_failed model=%s", type(model).__name__)
                report("bake", f"rounding to the nearest: {error}", 0, 0)
        quantized = quantized or write(NearestRounding())
        restore_quantized(model, quantized)
        return quantized, None if quantizing is None else rounding
    except (LoaderError, CalibrationError) as error:
        raise SourceError(f"cannot quantize: {error}") from error


def _may_pass(error: Exception) -> bool:
    """Whether memory or disk was missing; torch's own allocator has no class for that."""
    lacks_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return lacks_memory or isinstance(error, DiskFullError | MemoryError | OSError)


def _check_patience(model: Any, quantizing: Quantizing, schemes: Mapping[str, Scheme]) -> None:
    """Raises CalibrationError where gptq would take hours that nobody has asked for."""
    weights = model.num_parameters()
    is_trellis = any(scheme.kind == "trellis" for scheme in schemes.values())
    most = AUTO_GPTQ_TRELLIS_WEIGHTS if is_trellis else AUTO_GPTQ_WEIGHTS
    if quantizing.rounding == "auto" and quantizing.text is None and weights > most:
        raise CalibrationError(f"gptq of {weights} weights takes long; ask for it by name")


def _calibration_windows(
    model: Any, text: str | None, source: Path, report: Report
) -> list[torch.Tensor]:
    """From *text*; without one what the model says itself, which takes a large one too long."""
    context, tokenizer = context_length(model.config), load_tokenizer(source)
    is_large = tokenizer is not None and model.num_parameters() > AUTO_GPTQ_WEIGHTS
    if text is not None or is_large:
        return text_windows(text, tokenizer, context)

    def progress(done: int, total: int) -> None:
        report("bake", f"making up a text to calibrate with: {done} of {total} tokens", 0, 0)

    with hastened(model):
        return own_windows(model, context, progress)


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
