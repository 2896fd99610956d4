"""llama.cpp on the same shape and bits, in this process: load, warm prefill, decode.

It quantizes its own way (Q8_0, Q4_0: blocks of 32, 8.5 and 4.5 bits), from the same bf16 weights.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pilotlight_deploy.bench.load.in_turn import in_turn
from pilotlight_deploy.bench.page_cache import keep_in_page_cache
from pilotlight_deploy.bench.quant.gguf_file import write_gguf
from pilotlight_deploy.bench.quant.speed_cases import DECODED, PROMPT_TOKENS, prompt
from pilotlight_deploy.bench.report import Figure, figure

INSTALL = "pip install --group bench (llama-cpp-python is compiled: it wants cmake and a compiler)"
_RESIDENT = 0.999
_CONTEXT = 512


def llamacpp_figures(
    home: Path, runs: int, threads: int
) -> tuple[list[Figure], list[dict[str, Any]]]:
    """Figures without goals; a case that says how to install it where it is missing."""
    if find_spec("llama_cpp") is None or find_spec("gguf") is None:
        return [], [{"case": "llamacpp", "missing": INSTALL}]
    files = _files(home)
    seconds: dict[str, dict[str, list[float]]] = {kind: {} for kind in files}
    for turn in range(runs):
        for kind, path in in_turn(list(files.items()), turn):
            keep_in_page_cache(path, _RESIDENT)
            for measured, value in _measure(path, threads).items():
                seconds[kind].setdefault(measured, []).append(value)
    figures = [
        figure(f"quant.llamacpp.{kind}.{name}", [value * 1e3 for value in values], "ms")
        for kind, measured in seconds.items()
        for name, values in (
            ("load_ms", measured["load_s"]),
            ("prefill_ms", measured["prefill_s"]),
            ("decode_ms", measured["decode_s"]),
        )
    ]
    cases: list[dict[str, Any]] = [
        {
            "case": f"llamacpp_{kind}",
            "nbytes": path.stat().st_size,
            "prompt_tokens": PROMPT_TOKENS,
            "threads": threads,
            **seconds[kind],
        }
        for kind, path in files.items()
    ]
    return figures, cases


def _files(home: Path) -> dict[str, Path]:
    """The bench model as GGUF: bf16, and as llama.cpp itself quantizes it."""
    import llama_cpp  # noqa: PLC0415  # an optional peer

    _be_quiet(llama_cpp)
    directory = home / "bench-quant" / "gguf"
    directory.mkdir(parents=True, exist_ok=True)
    source = home / "sample-bench"
    files = {"bf16": directory / "bf16.gguf"}
    if not files["bf16"].exists():
        write_gguf(source, files["bf16"])
    kinds = {"int8": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "int4": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
    for kind, ftype in kinds.items():
        files[kind] = directory / f"{kind}.gguf"
        if files[kind].exists():
            continue
        wanted = llama_cpp.llama_model_quantize_default_params()
        wanted.ftype = ftype
        part = files[kind].with_suffix(".part")
        failed = llama_cpp.llama_model_quantize(
            str(files["bf16"]).encode(), str(part).encode(), ctypes.byref(wanted)
        )
        if failed:
            raise OSError(f"llama.cpp did not write {part}")
        part.replace(files[kind])
    return files


def _measure(path: Path, threads: int) -> dict[str, float]:
    """Load to a context that can decode; a prefill after a first one; DECODED greedy tokens."""
    began_s = time.perf_counter()
    with _context(path, threads) as (context, vocabulary):
        load_s = time.perf_counter() - began_s
        ids = prompt(PROMPT_TOKENS, vocabulary)
        token = _decode(context, ids, vocabulary)
        _forget(context)
        began_s = time.perf_counter()
        token = _decode(context, ids, vocabulary)
        prefill_s = time.perf_counter() - began_s
        began_s = time.perf_counter()
        for _ in range(DECODED):
            token = _decode(context, (token,), vocabulary)
        decode_s = (time.perf_counter() - began_s) / DECODED
    return {"load_s": load_s, "prefill_s": prefill_s, "decode_s": decode_s}


@contextmanager
def _context(path: Path, threads: int) -> Iterator[tuple[Any, int]]:
    import llama_cpp  # noqa: PLC0415  # an optional peer

    _be_quiet(llama_cpp)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise OSError(f"llama.cpp cannot load {path}")
    try:
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = _CONTEXT
        wanted.n_threads = wanted.n_threads_batch = threads
        context = llama_cpp.llama_init_from_model(model, wanted)
        try:
            vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
            yield context, vocabulary
        finally:
            llama_cpp.llama_free(context)
    finally:
        llama_cpp.llama_model_free(model)


def _decode(context: Any, ids: tuple[int, ...], vocabulary: int) -> int:
    """The likeliest token after *ids*."""
    import llama_cpp  # noqa: PLC0415  # an optional peer
    import numpy as np  # noqa: PLC0415  # the peer returns it

    tokens = (llama_cpp.llama_token * len(ids))(*ids)
    failed = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
    if failed:
        raise OSError(f"llama.cpp did not decode: {failed}")
    logits = llama_cpp.llama_get_logits_ith(context, -1)
    return int(np.ctypeslib.as_array(logits, (vocabulary,)).argmax())


def _forget(context: Any) -> None:
    import llama_cpp  # noqa: PLC0415  # an optional peer

    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)


_kept: list[Any] = []  # a callback that C holds


def _be_quiet(llama_cpp: Any) -> None:
    """Its log would be mixed with `--json`."""
    if not _kept:
        _kept.append(llama_cpp.llama_log_callback(lambda _level, _text, _data: None))
        llama_cpp.llama_log_set(_kept[0], None)
