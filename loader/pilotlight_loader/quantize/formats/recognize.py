"""From a quantization config to the format that it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pilotlight_loader.errors import QuantizedFormatError
from pilotlight_loader.quantize.formats.awq import Awq
from pilotlight_loader.quantize.formats.bitsandbytes import BitsAndBytes
from pilotlight_loader.quantize.formats.compressed_tensors import CompressedTensors
from pilotlight_loader.quantize.formats.config import Config
from pilotlight_loader.quantize.formats.format import Format
from pilotlight_loader.quantize.formats.fp8 import Fp8
from pilotlight_loader.quantize.formats.gptq import Gptq

_FORMATS: Mapping[str, Callable[[Config], Format]] = {
    "gptq": Gptq,
    "awq": Awq,
    "compressed-tensors": CompressedTensors,
    "bitsandbytes": BitsAndBytes,
    "fp8": Fp8,
    "fbgemm_fp8": Fp8,
    "modelopt": Fp8,
}
SUPPORTED = (
    "gptq (4 or 8 bits), awq (gemm, 4 bits), compressed-tensors (pack-, int-, float- or "
    "naive-quantized: int4, int8, fp8), bitsandbytes (nf4, fp4, int8), fp8, fbgemm_fp8 and "
    "modelopt (FP8)"
)


def recognize(config: Mapping[str, object], location: str) -> Format:
    """The format of a checkpoint with this ``quantization_config``; *location* is for messages.

    Raises QuantizedFormatError for another method, which lists what is read, or for a variant.
    """
    checked = Config(config, location)
    method = config.get("quant_method")
    if method is None and any(config.get(key) for key in ("load_in_4bit", "load_in_8bit")):
        method = "bitsandbytes"  # what transformers once left out
    if not isinstance(method, str) or method not in _FORMATS:
        raise QuantizedFormatError(
            location, f"quantized by {repr(method)[:64]}; supported: {SUPPORTED}"
        )
    return _FORMATS[method](checked)
