"""The text that the trained sample learned from and is measured on: Python's own library.

Which files belong to it, and which of them are held out, is decided by their path alone, so that
the same rule finds text that was never trained on in any machine's library.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

# Other packages, tests, tables that a program wrote, and what differs from build to build.
_LEFT_OUT_FOLDERS = (
    "__pycache__",
    "config-*",
    "dist-packages",
    "encodings",
    "idle_test",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
)
_LEFT_OUT_FILES = ("_sysconfigdata_*", "sitecustomize.py", "usercustomize.py")
_HELD_OUT_ONE_IN = 16


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the library."""

    path: str  # relative to the library, with slashes
    text: str


def standard_library() -> Path:
    """Where this interpreter's library stands."""
    return Path(sysconfig.get_path("stdlib"))


def is_held_out(path: str) -> bool:
    """Whether the file at *path*, relative to the library, is measured on and never trained on."""
    digest = hashlib.sha256(path.encode()).digest()
    return digest[0] % _HELD_OUT_ONE_IN == 0


def read_corpus(library: Path) -> list[SourceFile]:
    """Every source of *library* that is UTF-8, by path; the same list on every file system."""
    found = []
    for folder, folders, names in os.walk(library):
        folders[:] = [name for name in folders if not _matches(name, _LEFT_OUT_FOLDERS)]
        for name in names:
            if name.endswith(".py") and not _matches(name, _LEFT_OUT_FILES):
                file = Path(folder, name)
                with suppress(UnicodeDecodeError):
                    text = file.read_text(encoding="utf-8")
                    found.append(SourceFile(file.relative_to(library).as_posix(), text))
    return sorted(found, key=lambda source: source.path)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def held_out(files: Iterable[SourceFile]) -> list[SourceFile]:
    """Those of *files* that are measured on."""
    return [source for source in files if is_held_out(source.path)]


def trained_on(files: Iterable[SourceFile]) -> list[SourceFile]:
    """Those of *files* that are learned from."""
    return [source for source in files if not is_held_out(source.path)]


def corpus_digest(files: Iterable[SourceFile]) -> str:
    """SHA-256 over paths and texts, in the order given."""
    digest = hashlib.sha256()
    for source in files:
        for part in (source.path.encode(), source.text.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def encode(
    tokenize: Callable[[str], Sequence[int]], files: Iterable[SourceFile], begin: int, end: int
) -> list[int]:
    """The files as one row of ids, each between the marks *begin* and *end*."""
    ids: list[int] = []
    for source in files:
        ids += [begin, *tokenize(source.text), end]
    return ids
