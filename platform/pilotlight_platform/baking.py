"""Baking as a Ray task: a process of its own, which leaves nothing behind when it fails."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import ray

from pilotlight_loader import LAYOUT_VERSION
from pilotlight_platform.engine.source import BakedSource, bake_source, source_digest
from pilotlight_platform.errors import DeployError, PlatformError
from pilotlight_platform.schemas.model import DeployProgress, ModelSpec, Revision

_MANIFEST = "revision.json"

BakeStep = DeployProgress | tuple[Revision, bool]


# max_calls: the process ends with the bake and gives its memory back to the node.
@ray.remote(num_cpus=1, max_retries=0, max_calls=1)  # type: ignore[untyped-decorator]
def bake_revision(spec: ModelSpec, checkpoints_dir: Path) -> Iterator[BakeStep]:
    """Yield progress, then the revision and whether its checkpoint was there already.

    Raises SourceError, VerificationError, DeployError.
    """
    yield from bake_steps(spec, checkpoints_dir)


class BakeCall:
    """A running bake: iterate over its steps, or cancel it."""

    def __init__(self, spec: ModelSpec, checkpoints_dir: Path) -> None:
        self._refs = bake_revision.remote(spec, checkpoints_dir)

    async def __aiter__(self) -> AsyncIterator[BakeStep]:
        async for ref in self._refs:
            yield await ref

    def cancel(self) -> None:
        # By force: the bake runs in a thread, which nothing gentler would end. What it leaves is
        # a `.part` directory of its own, which the caller removes.
        ray.cancel(self._refs, force=True)


def bake_steps(spec: ModelSpec, checkpoints_dir: Path) -> Iterator[BakeStep]:
    """What ``bake_revision`` runs. The published directory is named by its content."""
    steps: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done = object()

    def report(phase: Any, message: str, done_bytes: int = 0, total_bytes: int = 0) -> None:
        steps.put(
            DeployProgress(
                phase=phase, message=message, done_bytes=done_bytes, total_bytes=total_bytes
            )
        )

    def work() -> None:
        try:
            steps.put(_bake(spec, checkpoints_dir, report))
        except PlatformError as error:
            steps.put(error)
        except OSError as error:
            steps.put(DeployError(f"{spec.source}: {error.strerror or error}"))
        except Exception as error:  # transformers raises anything: name it, fail this deploy only
            steps.put(DeployError(f"{spec.source}: {type(error).__name__}: {error}"))
        finally:
            steps.put(done)

    thread = threading.Thread(target=work, name="bake")
    thread.start()
    try:
        while (step := steps.get()) is not done:
            if isinstance(step, PlatformError):
                raise step
            yield step
    finally:
        thread.join()


def _bake(spec: ModelSpec, checkpoints_dir: Path, report: Any) -> tuple[Revision, bool]:
    source = Path(spec.source)
    digest = source_digest(source, report)
    shaped = json.dumps([digest, spec.dtype, LAYOUT_VERSION])
    content = hashlib.sha256(shaped.encode()).hexdigest()[:16]
    published = checkpoints_dir / content
    reused = (published / _MANIFEST).is_file()
    if not reused:
        checkpoints_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = Path(tempfile.mkdtemp(prefix=f"{content}.", suffix=".part", dir=checkpoints_dir))
        try:
            baked = bake_source(source, part, dtype=spec.dtype, report=report, digest=digest)
            _write_synced(part / _MANIFEST, json.dumps(_manifest(baked, digest)))
            shutil.rmtree(published, ignore_errors=True)  # a directory without its manifest
            part.replace(published)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    manifest = json.loads((published / _MANIFEST).read_text())
    # The name is part of the id: two models may share a checkpoint, never a replica.
    return (
        Revision(
            id=f"{spec.name}-{content}",
            path=str(published),
            source=spec.source,
            label=spec.revision,
            created_at_s=time.time(),
            **manifest,
        ),
        reused,
    )


def _manifest(baked: BakedSource, digest: str) -> dict[str, Any]:
    return {
        "source_digest": digest,
        "dtype": baked.dtype,
        "architecture": baked.architecture,
        "parameters": baked.parameters,
        "nbytes": baked.nbytes,
        "context_length": baked.context_length,
    }


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def remove_unused(checkpoints_dir: Path, used: set[str]) -> None:
    """Remove every checkpoint but those in *used*, and what a killed bake left.

    Only while no bake runs. Replicas are not disturbed: a mapped file outlives its name.
    """
    for directory in checkpoints_dir.glob("*"):
        if str(directory) not in used:
            shutil.rmtree(directory, ignore_errors=True)
