"""A source that others quantized: read as plain weights, once, in a deploy's own directory."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from pilotlight_loader import Checkpoint, LoaderError
from pilotlight_loader.quantize.formats.config import without_config
from pilotlight_loader.quantize.formats.dense import write_dense
from pilotlight_loader.quantize.formats.quantized_source import QuantizedSource, open_quantized
from pilotlight_platform.engine.packing import WEIGHTS_FILE
from pilotlight_platform.errors import SourceError

_CONFIG_FILE = "config.json"


def quantized_source(source: Path, checkpoint: Checkpoint) -> QuantizedSource | None:
    """What *source* stores in fewer bits; None where nothing says so.

    Raises SourceError that names the file or tensor, and lists what is supported.
    """
    try:
        return open_quantized(source, checkpoint)
    except LoaderError as error:
        raise SourceError(str(error)) from error


@contextlib.contextmanager
def dequantized(
    quantized: QuantizedSource,
    source: Path,
    beside: Path,
    dtype: torch.dtype,
    progress: Callable[[int, int], None],
) -> Iterator[Path]:
    """A directory with *source*'s config and plain weights, in *beside*, until the end.

    Raises SourceError.
    """
    directory = beside / "dequantized"
    directory.mkdir()
    try:
        config: dict[str, Any] = json.loads((source / _CONFIG_FILE).read_text(encoding="utf-8"))
        plain = {**without_config(config), "dtype": str(dtype).removeprefix("torch.")}
        (directory / _CONFIG_FILE).write_text(json.dumps(plain), encoding="utf-8")
        write_dense(quantized, directory / WEIGHTS_FILE, dtype, progress=progress)
        yield directory
    except LoaderError as error:
        raise SourceError(f"cannot read the quantized weights: {error}") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
