"""Tensors that cannot be views of the memory in which their bytes arrive."""

from __future__ import annotations

import threading

import torch


class OwnTensor:
    """A tensor whose bytes stand where no view is possible: copied once they are there."""

    def __init__(self, held: torch.Tensor) -> None:
        self._lock = threading.Lock()
        self._held: torch.Tensor | None = held
        self.bytes = torch.empty_like(held)

    def fill(self) -> None:
        """Once; later calls do nothing."""
        with self._lock:
            if self._held is not None:
                self.bytes.copy_(self._held)
                self._held = None
