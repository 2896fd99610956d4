"""Gates: a module's tensors cannot be used before they have arrived.

Two doors lead to them. A forward pre-hook waits for all that the module itself holds. And its
registries wait when they are looked into, since some forwards use a child's weight without calling
the child (Whisper's positions, Mamba's convolution, torch's own attention). Both doors are taken
away as soon as the module has what it holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

_REGISTRIES = ("_parameters", "_buffers")  # torch's, in the __dict__ of every module


class Gate:
    """In front of one module. Thread-safe, but one stream at a time may run the module."""

    def __init__(self, module: nn.Module, ready: Callable[[], None]) -> None:
        """*ready* blocks until the module's tensors may be used, or raises."""
        self._module = module
        self._ready = ready
        self._lock = threading.Lock()
        self._plain: dict[str, dict[str, Any]] = {}
        for registry in _REGISTRIES:
            self._plain[registry] = vars(module)[registry]
            vars(module)[registry] = _GatedRegistry(self._plain[registry], self)
        self._hook = module.register_forward_pre_hook(lambda _module, _inputs: self.open())

    def open(self) -> None:
        """Wait, then take the gate away. Raises what *ready* raises, and then stays."""
        self._ready()
        self.remove()

    def remove(self) -> None:
        """Put things back as they were. Idempotent."""
        with self._lock:
            plain, self._plain = self._plain, {}
            vars(self._module).update(plain)
            self._hook.remove()


class _GatedRegistry(dict[str, Any]):
    """A module's parameters or buffers; looking one up, as `module.weight` does, opens the gate.

    Listing them does not: that shows names, shapes and devices, as `model.device` wants them.
    """

    def __init__(self, plain: dict[str, Any], gate: Gate) -> None:
        super().__init__(plain)
        self._plain = plain
        self._gate = gate

    def __getitem__(self, key: str) -> Any:
        self._gate.open()
        return self._plain[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._gate.open()
        self._plain[key] = value

    def __delitem__(self, key: str) -> None:
        self._gate.open()
        del self._plain[key]


class Gates:
    """The gates of all modules that hold tensors of one load."""

    def __init__(
        self,
        owned: Mapping[nn.Module, Sequence[str]],
        ready: Callable[[Sequence[str]], None],
    ) -> None:
        """*ready* is given the names of what a module holds."""
        self._gates = [Gate(module, partial(ready, names)) for module, names in owned.items()]

    def remove(self) -> None:
        """Take all gates away. Idempotent."""
        for gate in self._gates:
            gate.remove()
