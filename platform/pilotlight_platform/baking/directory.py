"""Bake a source into a directory of the caller's, without a platform: whole, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pilotlight_loader.quantize.stored import Device
from pilotlight_platform.baking.fetched import local_source
from pilotlight_platform.baking.revision import quantizing_of
from pilotlight_platform.engine.checked_source import Report
from pilotlight_platform.engine.source import BakedSource, bake_source
from pilotlight_platform.errors import DeployError, PlatformError, SourceError
from pilotlight_platform.schemas.model import ModelSpec


@dataclass(frozen=True, slots=True)
class BakedDirectory:
    """What stands in the directory now."""

    path: Path
    baked: BakedSource


def bake_directory(
    spec: ModelSpec,
    destination: Path,
    cache_dir: Path,
    cache_bytes: int | None,
    report: Report,
    device: Device = "cpu",
) -> BakedDirectory:
    """Bake and verify the source of *spec* into *destination*, which must not exist yet.

    *device* is that whose kernels quantized weights are laid out for.
    Raises SourceError, VerificationError, DeployError.
    """
    if destination.exists():
        raise SourceError(f"{destination}: exists already; name a directory that does not")
    part: Path | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        part = Path(
            tempfile.mkdtemp(prefix=f"{destination.name}.", suffix=".part", dir=destination.parent)
        )
        with local_source(
            spec.source, cache_dir, cache_bytes, destination.parent, report
        ) as source:
            baked = bake_source(
                source,
                part,
                dtype=spec.dtype,
                report=report,
                quantizing=quantizing_of(spec),
                sparse=spec.sparsity != "none",
                device=device,
            )
        part.rename(destination)
    except PlatformError:
        raise
    except OSError as error:
        raise DeployError(f"{destination}: {error.strerror or error}") from error
    except Exception as error:  # transformers raises anything
        raise DeployError(f"{spec.source}: {type(error).__name__}: {error}") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return BakedDirectory(destination, baked)
