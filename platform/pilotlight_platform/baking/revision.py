"""Bake a revision: publish a verified checkpoint, named by its content, or leave nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from pilotlight_loader import LAYOUT_VERSION, kernel_layout
from pilotlight_loader.kernels import chosen
from pilotlight_loader.quantize.formats.quantized_source import READERS_VERSION
from pilotlight_loader.sparse.convert import SPARSITY_VERSION
from pilotlight_platform.baking.fetched import local_source
from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.engine.checked_source import CheckedSource, Report, check_source
from pilotlight_platform.engine.quantizing import QUANTIZATION_VERSION, Quantizing
from pilotlight_platform.engine.source import BakedSource, bake_source
from pilotlight_platform.errors import DeployError, PlatformError, SourceError
from pilotlight_platform.schemas.model import BakeDone, ModelSpec, Revision

_MANIFEST = "revision.json"
_MAX_TEXT_CHARACTERS = 4 << 20  # of a text to calibrate with; its windows are from all over them


def bake_revision(order: BakeOrder, report: Report) -> BakeDone:
    """Bake a model's source, or find it baked; the published directory is named by its content.

    Raises SourceError, VerificationError, DeployError.
    """
    spec = order.spec
    try:
        order.checkpoints_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with local_source(
            spec.source, order.cache_dir, order.cache_bytes, order.checkpoints_dir, report
        ) as source:
            return _bake(spec, source, order.checkpoints_dir, report)
    except PlatformError:
        raise
    except OSError as error:
        raise DeployError(f"{spec.source}: {error.strerror or error}") from error
    except Exception as error:  # transformers raises anything: name it, fail this deploy only
        raise DeployError(f"{spec.source}: {type(error).__name__}: {error}") from error


def _bake(spec: ModelSpec, source: Path, checkpoints_dir: Path, report: Report) -> BakeDone:
    checked = check_source(source, report)
    digest = checked.digest(report)
    quantizing = quantizing_of(spec)
    content = _content_id(spec, checked, digest, quantizing)
    published = checkpoints_dir / content
    reused = (published / _MANIFEST).is_file()
    if not reused:
        part = Path(tempfile.mkdtemp(prefix=f"{content}.", suffix=".part", dir=checkpoints_dir))
        try:
            baked = bake_source(
                source,
                part,
                dtype=spec.dtype,
                report=report,
                digest=digest,
                quantizing=quantizing,
                sparse=spec.sparsity != "none",
            )
            _write_synced(part / _MANIFEST, json.dumps(_manifest(baked, digest)))
            shutil.rmtree(published, ignore_errors=True)  # a directory without its manifest
            for file in part.iterdir():
                file.chmod(0o444)  # workers map them: a file that is cut would end its readers
            part.replace(published)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    manifest = json.loads((published / _MANIFEST).read_text())
    # The name is part of the id: two models may share a checkpoint, never a replica.
    revision = Revision(
        id=f"{spec.name}-{content}",
        path=str(published),
        source=spec.source,
        label=spec.revision,
        created_at_s=time.time(),
        **manifest,
    )
    return BakeDone(revision=revision, reused=reused)


def _content_id(
    spec: ModelSpec, source: CheckedSource, digest: str, quantizing: Quantizing | None
) -> str:
    """Of all that shapes the bytes of a bake, the versions of the code that makes them included."""
    # The kernel, too: a deploy under another torch writes the weights that its workers can use.
    shaped: list[Any] = [digest, spec.dtype, LAYOUT_VERSION, kernel_layout.kernel_id()]
    if source.quantized is not None:
        shaped += ["read", READERS_VERSION, QUANTIZATION_VERSION]
    if quantizing is not None:
        shaped += [QUANTIZATION_VERSION, *quantizing.shaping()]
        if quantizing.kind == "int4":
            shaped.append(chosen.trellis_product() is not None)  # else it has equal steps
    if spec.sparsity != "none":
        shaped += [spec.sparsity, SPARSITY_VERSION]
    return hashlib.sha256(json.dumps(shaped).encode()).hexdigest()[:16]


def quantizing_of(spec: ModelSpec) -> Quantizing | None:
    """What *spec* asks for. Raises SourceError for a text that cannot be read."""
    if spec.quantization == "none":
        return None
    text = None
    if spec.quantization_text is not None:
        text = _read_text(Path(spec.quantization_text))
    return Quantizing(
        spec.quantization,
        skip=spec.quantization_skip,
        uniform=spec.quantization_uniform,
        rounding=spec.quantization_rounding,
        text=text,
    )


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_TEXT_CHARACTERS)
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: no text to calibrate with: {error}") from error
    if not text.strip():
        raise SourceError(f"{path}: an empty text to calibrate with")
    return text


def _manifest(baked: BakedSource, digest: str) -> dict[str, Any]:
    return {
        "source_digest": digest,
        "dtype": baked.dtype,
        "quantization": baked.quantization,
        "rounding": baked.rounding,
        "architecture": baked.architecture,
        "parameters": baked.parameters,
        "nbytes": baked.nbytes,
        "context_length": baked.context_length,
        "cache_nbytes": baked.cache_nbytes,
    }


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
