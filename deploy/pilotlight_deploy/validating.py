"""Model files and a cluster file together: whether the pool holds what all models keep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pilotlight_autoscaler import PoolConfig
from pilotlight_autoscaler.floors import Keeper, Room, find_shortage
from pilotlight_deploy.cluster_file import is_cluster_file, read_cluster_file
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.model_file import read_model_spec
from pilotlight_platform.schemas.model import ModelSpec
from pilotlight_platform.settings import Settings


@dataclass(frozen=True, slots=True)
class Files:
    """What files say, each valid on its own."""

    kinds: dict[Path, str]  # "model" or "cluster"
    specs: tuple[ModelSpec, ...]
    pool: PoolConfig | None


def read_files(files: Sequence[Path]) -> Files:
    """Raises CliError: a file that is wrong, two of one model, two cluster files."""
    kinds: dict[Path, str] = {}
    specs: dict[str, tuple[Path, ModelSpec]] = {}
    pools: list[tuple[Path, PoolConfig]] = []
    for file in files:
        if is_cluster_file(file):
            kinds[file] = "cluster"
            pools.append((file, read_cluster_file(file).pool))
            if len(pools) > 1:
                raise _twice(pools[0][0], file, "cluster files: there is one pool")
            continue
        kinds[file] = "model"
        spec = read_model_spec(file)
        if spec.name in specs:
            raise _twice(specs[spec.name][0], file, f"of model {spec.name}: give one a name")
        specs[spec.name] = file, spec
    pool = pools[0][1] if pools else None
    return Files(kinds, tuple(spec for _, spec in specs.values()), pool)


def check_together(files: Files, settings: Settings) -> list[str]:
    """Raises CliError if the pool cannot hold what the models keep; without a pool nothing is said.

    Returns the models whose bytes were not counted: their source cannot be read here.
    """
    if files.pool is None:
        return []
    keepers = [Keeper(each.name, each.autoscaling) for each in files.specs]
    room = Room(files.pool.max_workers, slots=settings.worker_max_replicas)
    _refuse(keepers, room)
    uncounted: list[str] = []
    for n, spec in enumerate(files.specs):
        if not (spec.autoscaling.min_replicas or spec.autoscaling.schedule):
            continue
        nbytes = _planned_nbytes(spec)
        if nbytes is None:
            uncounted.append(spec.name)
        else:
            keepers[n] = replace(keepers[n], nbytes=nbytes)
    _refuse(keepers, replace(room, worker_bytes=settings.worker_capacity_bytes))
    return uncounted


def _refuse(keepers: list[Keeper], room: Room) -> None:
    shortage = find_shortage(keepers, room, time.time())
    if shortage is not None:
        hint = None
        if room.worker_bytes:
            hint = (
                "PILOTLIGHT_WORKER_CAPACITY_BYTES is what a worker holds, by default half of memory"
            )
        raise CliError(shortage.text, ExitCode.BAD_INPUT, hint)


def _planned_nbytes(spec: ModelSpec) -> int | None:
    """Of the baked weights, from the headers of a source on this machine."""
    if "://" in spec.source or not Path(spec.source).is_dir():
        return None
    # They import torch, which takes seconds: not for models that keep nothing.
    from pilotlight_loader import LoaderError  # noqa: PLC0415
    from pilotlight_platform.engine.planned_weights import plan_weights  # noqa: PLC0415
    from pilotlight_platform.errors import SourceError  # noqa: PLC0415

    try:
        return plan_weights(spec, (spec.quantization,)).nbytes[spec.quantization]
    except (LoaderError, SourceError):
        return None


def _twice(first: Path, second: Path, what: str) -> CliError:
    return CliError(f"{first} and {second} are both {what}", ExitCode.BAD_INPUT)
