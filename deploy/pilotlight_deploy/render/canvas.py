"""A small drawing surface with smooth lines, discs and text, written as a PNG. No dependency."""

from __future__ import annotations

import math
import os
import struct
import tempfile
import zlib
from pathlib import Path

from pilotlight_deploy.render.strokes import GLYPH_WIDTH, strokes

Colour = tuple[int, int, int]


class Canvas:
    """White at first; x goes right, y goes down, in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._pixels = bytearray(b"\xff" * (3 * width * height))

    def line(
        self, x0: float, y0: float, x1: float, y1: float, colour: Colour, width: float = 1.0
    ) -> None:
        dx, dy = x1 - x0, y1 - y0
        squared = dx * dx + dy * dy
        reach = width / 2 + 1
        for y in self._span(min(y0, y1) - reach, max(y0, y1) + reach, self.height):
            for x in self._span(*self._across(x0, y0, dx, dy, y, reach), self.width):
                part = ((x - x0) * dx + (y - y0) * dy) / squared if squared else 0.0
                part = min(1.0, max(0.0, part))
                away = math.hypot(x - x0 - part * dx, y - y0 - part * dy)
                self._blend(x, y, colour, width / 2 + 0.5 - away)

    def disc(self, x0: float, y0: float, radius: float, colour: Colour) -> None:
        for y in self._span(y0 - radius - 1, y0 + radius + 1, self.height):
            for x in self._span(x0 - radius - 1, x0 + radius + 1, self.width):
                self._blend(x, y, colour, radius + 0.5 - math.hypot(x - x0, y - y0))

    def text(
        self, x: float, y: float, text: str, colour: Colour, height: float, *, align: float = 0.0
    ) -> None:
        """Capitals on the baseline *y*; *align* 0 begins at *x*, 0.5 is centred, 1 ends there."""
        unit = height / 6
        x -= align * len(text) * GLYPH_WIDTH * unit
        for character in text:
            for (x0, y0), (x1, y1) in strokes(character):
                self.line(x + x0 * unit, y - y0 * unit, x + x1 * unit, y - y1 * unit, colour, 1.3)
            x += GLYPH_WIDTH * unit

    def write_png(self, path: Path) -> None:
        """Write the whole file or none."""
        row = 3 * self.width
        rows = (self._pixels[at : at + row] for at in range(0, len(self._pixels), row))
        body = zlib.compress(b"".join(b"\0" + bytes(each) for each in rows), 9)
        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.write(b"\x89PNG\r\n\x1a\n" + chunks)
                file.close()
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

    @staticmethod
    def _across(
        x0: float, y0: float, dx: float, dy: float, y: int, reach: float
    ) -> tuple[float, float]:
        """Which x of row *y* a line may touch."""
        low, high = min(x0, x0 + dx), max(x0, x0 + dx)
        if abs(dy) > 1e-9:
            slack = reach * math.hypot(dx, dy) / abs(dy)
            middle = x0 + (y - y0) * dx / dy
            low, high = max(low, middle - slack), min(high, middle + slack)
        return low - reach, high + reach

    @staticmethod
    def _span(low: float, high: float, size: int) -> range:
        return range(max(0, math.floor(low)), min(size, math.ceil(high) + 1))

    def _blend(self, x: int, y: int, colour: Colour, cover: float) -> None:
        if cover <= 0:
            return
        cover = min(1.0, cover)
        at = 3 * (y * self.width + x)
        for channel in range(3):
            old = self._pixels[at + channel]
            self._pixels[at + channel] = round(old + (colour[channel] - old) * cover)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
