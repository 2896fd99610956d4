"""A checkpoint under the names of the module that it is loaded into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from pilotlight_loader.errors import AttachMismatchError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.module_tensors import module_tensors
from pilotlight_loader.pipeline.readable import ReadableCheckpoint
from pilotlight_loader.pipeline.tied_halves import Half
from pilotlight_loader.sources.source import ByteSource

Rename = Callable[[str], str | None]  # None: this tensor is not wanted


class RenamedCheckpoint:
    """A ReadableCheckpoint; the module's own ties are added to those of the checkpoint."""

    def __init__(
        self, checkpoint: ReadableCheckpoint, module: nn.Module, rename: Rename | None
    ) -> None:
        """Raises AttachMismatchError where two tensors get one name."""
        self._checkpoint = checkpoint
        self._stored = _renamed(checkpoint, rename)
        self.location: str = checkpoint.location
        self.in_execution_order: bool = checkpoint.in_execution_order
        self._twins = twins = _stored_twice(checkpoint, self._stored, module)
        self.tensors: Mapping[str, TensorInfo] = {
            name: replace(checkpoint.tensors[stored], name=name)
            for name, stored in self._stored.items()
            if name not in twins
        }
        self.ties: Mapping[str, str] = {
            **_ties(checkpoint, self._stored, module, rename),
            **twins,
        }

    def file_of(self, name: str) -> str:
        return self._checkpoint.file_of(self._stored[name])

    def source(self, file: str) -> ByteSource:
        return self._checkpoint.source(file)

    def tied_halves(self) -> list[tuple[Half, Half]]:
        """What is stored under both names of a tie: the one that counts, and the other."""
        return [(self._half(kept), self._half(other)) for other, kept in self._twins.items()]

    def _half(self, name: str) -> Half:
        info = self._checkpoint.tensors[self._stored[name]]
        return Half(name, info, self.source(self.file_of(name)))


def _renamed(checkpoint: ReadableCheckpoint, rename: Rename | None) -> dict[str, str]:
    """The module's name -> the checkpoint's."""
    found: dict[str, str] = {}
    for stored in checkpoint.tensors:
        name = rename(stored) if rename is not None else stored
        if name is None:
            continue
        if name in found:
            raise AttachMismatchError(
                checkpoint.location, (f"{found[name]} and {stored} are both renamed to {name}",)
            )
        found[name] = stored
    return found


def _stored_twice(
    checkpoint: ReadableCheckpoint, stored: Mapping[str, str], module: nn.Module
) -> dict[str, str]:
    """What the module ties and the file has under both names: alias -> the one that counts.

    The weight that is tied to wins; tied_halves.py looks whether the other is the same. Where shape
    or dtype differ they cannot be one: AttachPlan says so.
    """
    first: dict[int, str] = {}
    twins: dict[str, str] = {}
    for entry in module_tensors(module):
        if entry.name not in stored:
            continue
        kept = first.setdefault(id(entry.tensor), entry.name)
        one, other = checkpoint.tensors[stored[kept]], checkpoint.tensors[stored[entry.name]]
        if kept != entry.name and (one.dtype, one.shape) == (other.dtype, other.shape):
            twins[entry.name] = kept
    return twins


def _ties(
    checkpoint: ReadableCheckpoint,
    stored: Mapping[str, str],
    module: nn.Module,
    rename: Rename | None,
) -> dict[str, str]:
    names = {old: new for new, old in stored.items()}
    ties: dict[str, str] = {}
    for alias, target in checkpoint.ties.items():
        new = rename(alias) if rename is not None else alias
        if new is not None and target in names:
            ties[new] = names[target]
    # A tied weight is simply absent from most files: the module says whose twin it is.
    holder: dict[int, str] = {}
    for entry in module_tensors(module):
        if entry.name in stored:
            holder.setdefault(id(entry.tensor), entry.name)
    for entry in module_tensors(module):
        if entry.name not in stored and id(entry.tensor) in holder:
            ties.setdefault(entry.name, holder[id(entry.tensor)])
    return ties
