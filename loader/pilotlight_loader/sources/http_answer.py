"""What an HTTP answer says, believed only as far as it fits what was asked. No I/O."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from pilotlight_loader.errors import (
    AccessDeniedError,
    ObjectChangedError,
    ObjectMissingError,
    RangeAnswerError,
    SourceReadError,
    TransientReadError,
)
from pilotlight_loader.sources.source import ObjectVersion

_TRANSIENT = frozenset({408, 425, 429})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")  # of S3 and its like


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and headers, names in lower case; *body* is the beginning of an error's."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def error_code(self) -> str:
        found = _ERROR_CODE.search(self.body)
        return found[1].decode() if found else ""


@dataclass(frozen=True, slots=True)
class Pin:
    """By what a version is known: a strong ETag, else the time of its last change."""

    nbytes: int
    etag: str | None
    modified: str | None
    version_id: str | None = None

    @property
    def version(self) -> ObjectVersion:
        return ObjectVersion(self.nbytes, self.etag or self.modified or "")

    def conditions(self) -> dict[str, str]:
        """Headers with which the server itself refuses another version."""
        if self.etag is not None:
            return {"If-Match": self.etag}
        if self.modified is not None:
            return {"If-Unmodified-Since": self.modified}
        return {}

    def check(self, answer: Answer, location: str) -> None:
        """Raises ObjectChangedError. S3's like may ignore If-Match, so each answer is looked at."""
        for header, pinned in (("etag", self.etag), ("last-modified", self.modified)):
            if pinned is None:
                continue
            found = answer.headers.get(header)
            if found != pinned:
                raise ObjectChangedError(
                    location,
                    f"the object was changed while it was read: {header} {pinned} became {found}",
                )
            return


def pin_of(answer: Answer, location: str, *, allow_unpinned: bool, asked: int = 1) -> Pin:
    """The version that a request for the first *asked* bytes was answered with.

    Raises SourceReadError where the server names none and *allow_unpinned* is not set.
    """
    _check_encoding(answer, location)
    modified = answer.headers.get("last-modified")
    strong = _strong(answer.headers.get("etag"))
    nbytes = _object_bytes(answer, location, asked)
    if not strong and not modified and not allow_unpinned and nbytes > 0:
        raise SourceReadError(
            location,
            "the server gives neither a strong ETag nor Last-Modified: a change during the load "
            "could not be seen; HttpOptions(allow_unpinned=True) reads it all the same",
        )
    return Pin(nbytes, strong, modified, answer.headers.get("x-amz-version-id"))


def pin_of_head(answer: Answer) -> Pin | None:
    """The version that a HEAD was answered with; None where it may not be that of a GET.

    Redirected, refused, encoded, without a version or without a length: frameworks that know no
    HEAD say 0. A GET of byte 0 then tells, or says what is wrong.
    """
    headers = answer.headers
    length = headers.get("content-length", "")
    if (
        answer.status != HTTPStatus.OK
        or not (length.isdecimal() and int(length))
        or headers.get("content-encoding", "identity").lower() != "identity"
        or headers.get("accept-ranges", "bytes").lower() != "bytes"
    ):
        return None
    etag, modified = headers.get("etag"), headers.get("last-modified")
    strong = _strong(etag)
    if not strong and not modified:
        return None
    return Pin(int(length), strong, modified, headers.get("x-amz-version-id"))


def _strong(etag: str | None) -> str | None:
    # If-Match compares strongly: a weak tag (W/"…") matches nothing, not even itself.
    return etag if etag and not etag.startswith("W/") else None


def _object_bytes(answer: Answer, location: str, asked: int) -> int:
    if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        # The one object without a byte 0 is the empty one; not every server says so again.
        if answer.headers.get("content-range", "bytes */0") != "bytes */0":
            raise RangeAnswerError(location, _not_what_was_asked(answer, 0, asked))
        return 0
    if answer.status == HTTPStatus.OK:  # ranges are ignored: reads of all of it still work
        length = answer.headers.get("content-length", "")
        if not length.isdecimal():
            raise RangeAnswerError(location, "the server knows neither ranges nor lengths")
        return int(length)
    first, last, total = _content_range(answer, location)
    # It may send less than was asked for (RFC 9110, 15.3.7): the rest is asked for again.
    if total is None or first != 0 or not 0 <= last < min(asked, total):
        raise RangeAnswerError(location, _not_what_was_asked(answer, 0, asked))
    return total


def tells_no_total(answer: Answer, location: str) -> bool:
    """Whether it is a range of an object whose length the server keeps to itself."""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        return False
    return _content_range(answer, location)[2] is None


def sent_bytes(answer: Answer, location: str) -> int:
    """Of the range that was asked for; 0 where the answer is no range."""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    first, last, _ = _content_range(answer, location)
    return last - first + 1


def check_part(answer: Answer, pin: Pin, start: int, nbytes: int, location: str) -> None:
    """Raises unless the body is exactly *nbytes* from *start* of the pinned version."""
    if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise ObjectChangedError(location, f"the object no longer has a byte {start}")
    # First the version: another object may well have another length.
    pin.check(answer, location)
    _check_encoding(answer, location)
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        first, last, total = _content_range(answer, location)
        if (first, last) != (start, start + nbytes - 1):
            raise RangeAnswerError(location, _not_what_was_asked(answer, start, nbytes))
        if total not in (None, pin.nbytes):
            raise ObjectChangedError(location, f"{pin.nbytes} bytes became {total}")
    elif (start, nbytes) != (0, pin.nbytes):
        raise RangeAnswerError(
            location,
            f"the server ignores ranges: it answered {answer.status} with the whole object to "
            f"bytes {start}-{start + nbytes - 1}",
        )
    length = answer.headers.get("content-length")
    if length is not None and length != str(nbytes):
        raise RangeAnswerError(location, f"{length} bytes were sent for a range of {nbytes}")


def error_of(answer: Answer, location: str) -> SourceReadError:
    """The loader's name for a status that is no success."""
    said = f"HTTP {answer.status} {answer.error_code or _phrase(answer.status)}"
    region = answer.headers.get("x-amz-bucket-region")
    if answer.status in (301, 307, 400) and region:
        return SourceReadError(location, f"{said}: the bucket is in {region}, set this region")
    if answer.status in (401, 403) or answer.error_code == "ExpiredToken":
        return AccessDeniedError(location, said)
    if answer.status in (404, 410):
        return ObjectMissingError(location, said)
    if answer.status == HTTPStatus.PRECONDITION_FAILED:
        return ObjectChangedError(location, f"{said}: the object was changed while it was read")
    if answer.status in _TRANSIENT or answer.status >= 500:
        asked_s = _retry_after_s(answer.headers.get("retry-after"), time.time())
        return TransientReadError(
            location, said if asked_s is None else f"{said}, retry after {asked_s:g} s", asked_s
        )
    return SourceReadError(location, said)


def _content_range(answer: Answer, location: str) -> tuple[int, int, int | None]:
    text = answer.headers.get("content-range", "")
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:  # multipart/byteranges has none either
        raise RangeAnswerError(location, f"HTTP 206 with Content-Range {text[:100]!r}")
    return int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])


def _check_encoding(answer: Answer, location: str) -> None:
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise RangeAnswerError(
            location, f"the bytes are {encoding}-encoded although identity was asked for"
        )


def _not_what_was_asked(answer: Answer, start: int, nbytes: int) -> str:
    found = answer.headers.get("content-range", "")
    return f"asked for bytes {start}-{start + nbytes - 1}, the answer is {found[:100]!r}"


def _retry_after_s(text: str | None, now_s: float) -> float | None:
    """Seconds, or a date, as RFC 9110 has it; None where it is neither."""
    if text is None:
        return None
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now_s)
    except ValueError:
        return None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
