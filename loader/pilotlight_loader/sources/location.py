"""Where a checkpoint is, as a value. Parsing asks no network; a path asks the file system once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from pilotlight_loader.errors import LocationError

SUPPORTED = "a path, file://, s3://bucket/prefix, http(s)://host/path, hf://org/name[@rev][/folder]"
DEFAULT_REVISION = "main"
# An address that ends like this is one file, any other is a directory. Pickles are among them so
# that they are refused by name.
FILE_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})


@dataclass(frozen=True, slots=True)
class Location:
    """A directory of a place, and the one file of it that is meant, if it is one."""

    scheme: str  # "file", "s3", "http", "https" or "hf"
    authority: str  # the bucket, host[:port], or org/name; "" for a path
    directory: str  # names are relative to it; without a slash at the end
    file_name: str | None = None
    revision: str = ""  # of a hub repository
    query: str = field(default="", repr=False)  # of a URL: may be a signature
    userinfo: str = field(default="", repr=False)  # of a URL: user:password

    def __str__(self) -> str:
        """For messages: it names no credentials and can be given to open_checkpoint again."""
        inside = "/".join(part for part in (self.directory, self.file_name) if part)
        if self.scheme == "file":
            return inside or "/"
        revision = f"@{self.revision}" if self.revision else ""
        place = f"{self.scheme}://{self.authority}{revision}"
        return f"{place}/{inside.removeprefix('/')}" if inside else place


def parse_location(text: str | Path) -> Location:
    """Raises LocationError, which says what is supported and repeats no credentials."""
    if isinstance(text, Path) or "://" not in text:
        return _path(Path(text))
    parts = _split(text)
    match parts.scheme.lower():
        case "file":
            if parts.netloc not in ("", "localhost"):
                raise LocationError(redacted(text), "file:// takes an absolute path and no host")
            return _path(Path(unquote(parts.path)))
        case "s3":
            return _bucket(text)
        case "http" | "https":
            return _url(text, parts)
        case "hf":
            return _hub(text)
        case other:
            raise LocationError(redacted(text), f"{other}:// is not supported; use {SUPPORTED}")


def redacted(url: str) -> str:
    """*url* without user, password, query and fragment: a signature is as good as a password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    rest = rest.partition("?")[0].partition("#")[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _split(text: str) -> SplitResult:
    if not text.isprintable():
        raise LocationError(repr(redacted(text)), "holds characters that are not printable")
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is no number
    except ValueError as error:
        raise LocationError(redacted(text), "not a valid URL") from error
    return parts


def _path(path: Path) -> Location:
    # What a path is, the file system knows: a blob of the hub's cache has no suffix, and a
    # directory may have one.
    if path.is_file() or (path.suffix in FILE_SUFFIXES and not path.is_dir()):
        return Location("file", "", str(path.parent), path.name)
    return Location("file", "", str(path))


def _bucket(text: str) -> Location:
    # A key is no URL: it may hold "?" and "#", and nothing in it is percent-encoded.
    bucket, _, key = text.partition("://")[2].partition("/")
    if not bucket or "@" in bucket:
        raise LocationError(redacted(text), "expected s3://bucket/prefix; keys go into a profile")
    directory, file_name = _file_of(key.rstrip("/"))
    return Location("s3", bucket, directory, file_name)


def _url(text: str, parts: SplitResult) -> Location:
    if not parts.hostname:
        raise LocationError(redacted(text), "the URL has no host")
    if not parts.hostname.isascii():
        raise LocationError(redacted(text), "write the host in ASCII, as xn--…")
    userinfo, _, host = parts.netloc.rpartition("@")
    directory, file_name = _file_of(parts.path.rstrip("/"))
    return Location(
        parts.scheme.lower(),
        host,
        directory,
        None if file_name is None else unquote(file_name),
        query=parts.query,
        userinfo=userinfo,
    )


def _hub(text: str) -> Location:
    parts = text.partition("://")[2].rstrip("/").split("/")
    name, _, revision = parts[1].partition("@") if len(parts) > 1 else ("", "", "")
    inside = parts[2:]
    if not parts[0] or not name or "@" in parts[0] or any(p in ("", ".", "..") for p in inside):
        raise LocationError(redacted(text), "expected hf://org/name, hf://org/name@rev or …/folder")
    directory, file_name = _file_of("/".join(inside))
    # As in huggingface_hub: a revision with a slash is written refs%2Fpr%2F1.
    revision = unquote(revision) or DEFAULT_REVISION
    return Location("hf", f"{parts[0]}/{name}", directory, file_name, revision)


def _file_of(path: str) -> tuple[str, str | None]:
    directory, _, last = path.rpartition("/")
    if Path(last).suffix in FILE_SUFFIXES:
        return directory, last
    return path, None
