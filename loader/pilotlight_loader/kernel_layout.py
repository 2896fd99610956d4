"""Weights as the CPU's bf16 kernel wants them: packed once, mapped for ever after.

oneDNN packs a plain [N, K] weight again in every product. Measured (torch 2.13, AVX512_BF16, two
cores, 100 weights of 2816 x 1024): one row takes 32 ms plain and 19 ms packed, 16 rows 61 and 31.

torch has all that this needs, but not as a public interface. The private parts are those of
onednn.py; kernel_id() tries them once, bit for bit against F.linear, and is None where one of them
is missing or different. Then every weight stays plain, which is only slower.

A descriptor tells oneDNN where in memory each element is, and a wrong one would make it read
elsewhere. So none is taken from a file: layout_of() asks oneDNN for that of a shape.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import weakref
from dataclasses import dataclass, field

import torch
from torch import nn

from pilotlight_loader.host_bytes import bytes_at
from pilotlight_loader.layout import round_up
from pilotlight_loader.onednn import OneDnn

logger = logging.getLogger(__name__)

_POINTER_ALIGN = 64  # of oneDNN's own memory; baked tensors stand on 256
_MAX_BLOCK = 64  # N and K are padded to a multiple of at most so much
_PROBES = ((64, 64), (80, 96), (256, 96), (4096, 64))  # shapes that are packed in different ways
# Deep enough to be summed up in blocks: torch 2.8 has other blocks for plain weights, so that its
# products differ in rounding from a depth of some hundreds on. torch 2.13 has the same.
_TRIED = (384, 1024)
_TRIED_ROWS = (1, 17, 128)


@dataclass(frozen=True, slots=True)
class KernelLayout:
    """Where the elements of a bf16 weight of one shape are, in packed bytes."""

    shape: tuple[int, int]  # [N, K]: of the weight, as torch.nn.Linear has it
    nbytes: int  # packed; N and K are padded to whole blocks
    descriptor: bytes = field(repr=False)  # oneDNN's, to be believed only if oneDNN has made it

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the descriptor: equal digests, equal layouts."""
        return hashlib.sha256(self.descriptor).hexdigest()


@functools.cache
def kernel_id() -> str | None:
    """What the layouts of this process depend on, fit for a file name; None: nothing is packed."""
    try:
        onednn = _onednn()
        layouts = [_make_layout(onednn, shape) for shape in _PROBES]
        _check_product(_TRIED)
    except Exception as error:  # private parts of torch: whatever may be missing or different
        logger.info("kernel_layout_unsupported torch=%s reason=%r", torch.__version__, error)
        return None
    capability = torch.backends.cpu.get_cpu_capability()
    known = [torch.__version__, str(torch.version.git_version), capability]
    known += [layout.digest for layout in layouts]
    digest = hashlib.sha256("\0".join(known).encode()).hexdigest()[:12]
    return f"onednn-{_safe(capability)}-{digest}"


@functools.lru_cache(maxsize=1024)  # distinct shapes; a model has about ten
def layout_of(shape: tuple[int, int]) -> KernelLayout:
    """How this process packs a bf16 weight; takes the memory of one such weight for a moment.

    Only where kernel_id() is not None.
    """
    return _make_layout(_onednn(), shape)


def max_nbytes(shape: tuple[int, int]) -> int:
    """How much layout_of() may take for *shape*, known before it is asked."""
    rows, columns = shape
    return round_up(rows, _MAX_BLOCK) * round_up(columns, _MAX_BLOCK) * 2


def pack(weight: torch.Tensor) -> memoryview:
    """The packed bytes of a bf16 [N, K] weight: those that layout_of(its shape) describes.

    Only where kernel_id() is not None. Raises ValueError for another kind of tensor.
    """
    if weight.dtype != torch.bfloat16 or weight.dim() != 2 or weight.numel() == 0:
        raise ValueError(f"{weight.dtype} {list(weight.shape)} is no bfloat16 matrix")
    onednn = _onednn()
    packed = onednn.pack(weight)
    return bytes_at(onednn.address(packed), onednn.nbytes(packed), packed)


def view(raw: torch.Tensor, layout: KernelLayout) -> torch.Tensor:
    """The weight whose packed bytes are *raw*: an mkldnn tensor on that memory, which it keeps.

    Other tensors on it, such as detach() gives, do not keep it; parameter() does. *layout* must
    come from layout_of(). Raises ValueError where *raw* is not what it describes.
    """
    fits = raw.dtype == torch.uint8 and raw.dim() == 1 and raw.is_contiguous()
    if not fits or raw.device.type != "cpu" or len(raw) != layout.nbytes:
        raise ValueError(f"{layout} does not describe {raw.dtype} {list(raw.shape)} {raw.device}")
    if raw.data_ptr() % _POINTER_ALIGN:
        raise ValueError(f"packed bytes must stand on {_POINTER_ALIGN} bytes")
    tensor = _onednn().tensor(raw.data_ptr(), layout.shape, layout.descriptor)
    tensor.__dict__["_packed_memory"] = raw  # the mkldnn tensor itself does not own it
    return tensor


def zeros(layout: KernelLayout) -> torch.Tensor:
    """A weight of zeros; its memory is taken page by page, when it is written."""
    return view(
        _aligned(torch.zeros(layout.nbytes + _POINTER_ALIGN, dtype=torch.uint8, device="cpu")),
        layout,
    )


def parameter(tensor: torch.Tensor) -> nn.Parameter:
    """A frozen parameter of *tensor*; of a view() it keeps the memory, too."""
    made = nn.Parameter(tensor, requires_grad=False)
    if is_packed(tensor):
        made.__dict__["_packed_memory"] = tensor  # torch made a second tensor on it
    return made


def is_packed(weight: torch.Tensor) -> bool:
    """Whether linear() takes this weight."""
    return weight.is_mkldnn


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """F.linear for a packed *weight*: the same bits, sooner.

    Two cases may round otherwise: up to 4096 multiplications F.linear does not ask oneDNN, and
    for a strided *x* of three dimensions it rounds once more before it adds the bias.
    Raises RuntimeError for another dtype or width of *x*, as F.linear does.
    """
    if bias is not None and not bias.is_contiguous():
        bias = bias.contiguous()  # the kernel would read it as if it were
    product: torch.Tensor = _onednn().product(x, weight, bias, "none", [], "")
    return product


_onednn = functools.cache(OneDnn)


def _make_layout(onednn: OneDnn, shape: tuple[int, int]) -> KernelLayout:
    packed = onednn.pack(torch.zeros(shape, dtype=torch.bfloat16, device="cpu"))
    return KernelLayout(shape, onednn.nbytes(packed), onednn.descriptor(packed))


def _check_product(shape: tuple[int, int]) -> None:
    """Pack, copy the bytes, view the copy, multiply, let go.

    Raises where that is not what F.linear gives, or where the view stays.
    """
    generator = torch.Generator().manual_seed(0)  # not the global one: others draw from it
    weight, bias, x = (
        torch.randn(*size, generator=generator, device="cpu").bfloat16()
        for size in (shape, shape[:1], (max(_TRIED_ROWS), shape[1]))
    )
    layout = layout_of(shape)
    raw = _aligned(torch.empty(layout.nbytes + _POINTER_ALIGN, dtype=torch.uint8, device="cpu"))
    raw.copy_(torch.frombuffer(pack(weight), dtype=torch.uint8))
    packed = view(raw, layout)
    with torch.inference_mode():
        for rows in _TRIED_ROWS:
            expected = nn.functional.linear(x[:rows], weight, bias)
            if not torch.equal(linear(x[:rows], packed, bias), expected):
                raise NotImplementedError("a product with a packed weight has other bits")
    gone = weakref.ref(packed)
    del packed
    if gone() is not None:
        raise NotImplementedError("a packed weight is never freed")


def _aligned(raw: torch.Tensor) -> torch.Tensor:
    """All but _POINTER_ALIGN bytes of *raw*, from where packed bytes may begin."""
    start = -raw.data_ptr() % _POINTER_ALIGN
    return raw[start : start + len(raw) - _POINTER_ALIGN]


def _safe(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())
