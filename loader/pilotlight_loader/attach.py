"""Attach a checkpoint's tensors to a skeleton: plain assignment, planned once, undone for free."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from pilotlight_loader import kernel_layout
from pilotlight_loader.dtypes import torch_dtype, torch_shape
from pilotlight_loader.errors import AttachMismatchError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.held_tensors import can_be_replaced, replaced, tensors_in
from pilotlight_loader.module_tensors import ModuleTensor, module_tensors
from pilotlight_loader.packed import PackedTensor
from pilotlight_loader.packed_linear import PackedLinear

_PARAMETERS, _BUFFERS, _MODULES = "_parameters", "_buffers", "_modules"  # torch's registries


class StoredTensors(Protocol):
    """What a checkpoint holds, under the names of the module; a BakedCheckpoint is one."""

    @property
    def location(self) -> str: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    @property
    def ties(self) -> Mapping[str, str]:
        """Alias -> the name under which the tensor is stored."""


class Weights(Protocol):
    """The tensors themselves: mapped, loaded, or stand-ins."""

    @property
    def location(self) -> str: ...

    @property
    def infos(self) -> Mapping[str, TensorInfo]: ...

    def tensors(self) -> Mapping[str, torch.Tensor]: ...


@dataclass(frozen=True, slots=True)
class AttachReport:
    """What attach() did; times are Unix seconds."""

    start_s: float
    end_s: float
    nbytes: int  # of the tensors, each counted once


@dataclass(frozen=True, slots=True)
class _Slot:
    """One place in the skeleton that refers to a tensor."""

    owner: nn.Module
    place: dict[str, Any]  # the owner's _parameters, _buffers or __dict__
    key: str
    stored: str  # the tensor's name in the file
    is_parameter: bool
    weightless: torch.Tensor  # what stood there, and comes back with detach()


@dataclass(frozen=True, slots=True)
class _Container:
    """A plain attribute that holds tensors of the skeleton in a list or the like."""

    owner: nn.Module
    key: str
    weightless: Any
    stored: tuple[str, ...]


class AttachPlan:
    """Which tensor goes where in one skeleton. Not thread-safe: it writes into the modules."""

    def __init__(
        self,
        location: str,
        infos: Mapping[str, TensorInfo],
        slots: tuple[_Slot, ...],
        containers: tuple[_Container, ...],
    ) -> None:
        self._location = location
        self._infos = infos
        self._slots = slots
        self._containers = containers
        self._nbytes = sum(info.nbytes for info in infos.values())

    @classmethod
    def compile(cls, module: nn.Module, checkpoint: StoredTensors) -> AttachPlan:
        """Match *module*, on the meta device, with *checkpoint*.

        Raises AttachMismatchError: missing, unexpected or tied differently; another shape or
        dtype; packed for a layer that is no PackedLinear; or a tensor that the module keeps
        outside of its parameters and buffers.
        """
        entries = list(module_tensors(module))
        stored = {name: name for name in checkpoint.tensors} | dict(checkpoint.ties)
        slots = [_slot(entry, stored[entry.name]) for entry in entries if entry.name in stored]
        owned = {id(slot.weightless): slot for slot in slots}
        containers: list[_Container] = []
        strays: list[str] = []
        for name, owner, key, value in _plain_attributes(module):
            if isinstance(value, torch.Tensor) and id(value) in owned:
                # The attribute stands for a buffer or parameter, and must go where that one goes.
                slot = owned[id(value)]
                slots.append(_Slot(owner, vars(owner), key, slot.stored, slot.is_parameter, value))
                continue
            weightless = [tensor for tensor in tensors_in(value) if tensor.is_meta]
            if weightless and can_be_replaced(value) and all(id(t) in owned for t in weightless):
                names = tuple(owned[id(tensor)].stored for tensor in weightless)
                containers.append(_Container(owner, key, value, names))
            elif weightless:
                strays.append(f"{name} is neither parameter nor buffer, nothing would fill it")
        problems = [*_name_problems(entries, stored), *_fit_problems(entries, stored, checkpoint)]
        problems += [*_tie_problems(entries, stored), *strays]
        if problems:
            raise AttachMismatchError(checkpoint.location, problems)
        return cls(checkpoint.location, checkpoint.tensors, tuple(slots), tuple(containers))

    def owned(self) -> dict[nn.Module, tuple[str, ...]]:
        """The stored names of what each module itself holds; a tied tensor has several holders."""
        found: dict[nn.Module, dict[str, None]] = {}
        for slot in self._slots:
            found.setdefault(slot.owner, {})[slot.stored] = None
        for container in self._containers:
            found.setdefault(container.owner, {}).update(dict.fromkeys(container.stored))
        return {owner: tuple(names) for owner, names in found.items()}

    def attach(self, weights: Weights) -> AttachReport:
        """Put the weights in, without copying; the module is on meta again if this fails.

        Raises AttachMismatchError for the weights of another checkpoint.
        """
        start_s = time.time()
        if weights.infos != self._infos:
            raise AttachMismatchError(weights.location, (f"the plan is for {self._location}",))
        tensors = weights.tensors()
        # Tied weights must stay one Parameter, as they were in the skeleton.
        parameters = {
            slot.stored: kernel_layout.parameter(tensors[slot.stored])
            for slot in self._slots
            if slot.is_parameter
        }
        try:
            for slot in self._slots:
                source = parameters if slot.is_parameter else tensors
                slot.place[slot.key] = source[slot.stored]
            # Not before: a module may look for changes of what its list is made of, as nn.LSTM.
            attached = {id(slot.weightless): slot.place[slot.key] for slot in self._slots}
            for container in self._containers:
                filled = replaced(container.weightless, attached)
                vars(container.owner)[container.key] = filled
        except BaseException:
            self.detach()
            raise
        return AttachReport(start_s, time.time(), self._nbytes)

    def detach(self) -> None:
        """Put the weightless tensors back. Attaching again is possible at any time."""
        for slot in self._slots:
            slot.place[slot.key] = slot.weightless
        for container in self._containers:
            vars(container.owner)[container.key] = container.weightless


def _slot(entry: ModuleTensor, stored: str) -> _Slot:
    place: dict[str, Any] = vars(entry.module)[_PARAMETERS if entry.is_parameter else _BUFFERS]
    return _Slot(entry.module, place, entry.key, stored, entry.is_parameter, entry.tensor)


def _plain_attributes(
    module: nn.Module,
) -> Iterator[tuple[str, nn.Module, str, object]]:
    """(full name, owner, key, value) of all but torch's own registries."""
    for prefix, owner in module.named_modules():
        for key, value in vars(owner).items():
            if key not in (_PARAMETERS, _BUFFERS, _MODULES):
                yield f"{prefix}.{key}".lstrip("."), owner, key, value


def _name_problems(entries: list[ModuleTensor], stored: Mapping[str, str]) -> Iterator[str]:
    names = {entry.name for entry in entries}
    filled = {entry.name for entry in entries if _needs_no_weights(entry)}
    for name in sorted(names - filled - stored.keys()):
        yield f"{name} is missing in the checkpoint"
    for name in sorted(stored.keys() - names):
        yield f"{name} is not in the module"


def _needs_no_weights(entry: ModuleTensor) -> bool:
    """A buffer that state_dict() leaves out, and that the module has computed already."""
    return not entry.tensor.is_meta and entry.key in entry.module._non_persistent_buffers_set


def _fit_problems(
    entries: list[ModuleTensor], stored: Mapping[str, str], checkpoint: StoredTensors
) -> Iterator[str]:
    for entry in entries:
        if entry.name not in stored:
            continue
        info = checkpoint.tensors[stored[entry.name]]
        wanted = entry.tensor
        shape = torch_shape(info.dtype, info.shape, info.name, checkpoint.location)
        if shape != tuple(wanted.shape):
            yield f"{entry.name} is {list(shape)}, the module wants {list(wanted.shape)}"
        dtype = torch_dtype(info.dtype, info.name, checkpoint.location)
        if dtype != wanted.dtype:
            yield f"{entry.name} is {dtype}, the module wants {wanted.dtype}"
        if isinstance(info, PackedTensor) and not isinstance(entry.module, PackedLinear):
            yield f"{entry.name} is packed, {type(entry.module).__name__} cannot multiply with it"


def _tie_problems(entries: list[ModuleTensor], stored: Mapping[str, str]) -> Iterator[str]:
    """What the module ties must be tied in the file; the reverse changes no result."""
    first: dict[int, ModuleTensor] = {}
    for entry in entries:
        twin = first.setdefault(id(entry.tensor), entry)
        if {entry.name, twin.name} <= stored.keys() and stored[entry.name] != stored[twin.name]:
            yield f"{entry.name} is tied to {twin.name} in the module, not in the checkpoint"
