"""Where the bytes of a part go: what fetching asks of a ring of staging buffers, or of memory."""

from __future__ import annotations

from typing import Protocol

from pilotlight_loader.transfer.parts import Part


class Room(Protocol):
    """Room for one part, in the hands of one reader until it calls `landed` or `give_back`."""

    def view(self, part: Part, *, apart: bool) -> memoryview:
        """Where to read *part* to; *apart* from where another reader writes the same part."""

    def landed(self, part: Part) -> None:
        """All of *part* is in the view, and no other reader writes it any more."""

    def give_back(self) -> None:
        """Nothing of use is in it."""


class Landing(Protocol):
    """Gives room; thread-safe."""

    @property
    def in_place(self) -> bool:
        """Whether a part is read to where it stays, so that nobody else may still write there."""

    def take(self) -> Room | None:
        """Room for one part; blocks while there is none. None once it was closed."""

    def close(self) -> None:
        """Let nobody wait in take() any longer. Idempotent."""
