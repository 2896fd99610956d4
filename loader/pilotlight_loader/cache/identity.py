"""What a cached object is known by before its bytes are: where it stands, in which version."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Self

from pilotlight_loader.sources.source import ByteSource


@dataclass(frozen=True, slots=True)
class ObjectIdentity:
    """One version of one object. Another etag or size is another object."""

    location: str  # never with credentials: it is written to disk and shown
    etag: str
    nbytes: int

    @classmethod
    def of(cls, source: ByteSource) -> Self:
        return cls(source.location, source.version.etag, source.version.nbytes)

    @property
    def key(self) -> str:
        """SHA-256 (hex) of the three: names the files that belong to this version."""
        plain = json.dumps([self.location, self.etag, self.nbytes])
        return hashlib.sha256(plain.encode()).hexdigest()
