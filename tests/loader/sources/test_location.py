from __future__ import annotations

from pathlib import Path

import pytest

from pilotlight_loader.errors import LocationError
from pilotlight_loader.sources.location import Location, parse_location, redacted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/models/a", Location("file", "", "/models/a")),
        ("models/a.safetensors", Location("file", "", "models", "a.safetensors")),
        ("file:///models/a%20b", Location("file", "", "/models/a b")),
        ("s3://bucket", Location("s3", "bucket", "")),
        ("s3://bucket/a/b/", Location("s3", "bucket", "a/b")),
        ("s3://bucket/a/b.safetensors", Location("s3", "bucket", "a", "b.safetensors")),
        ("s3://bucket/50%/a?b", Location("s3", "bucket", "50%/a?b")),
        ("s3://bucket/model.bin", Location("s3", "bucket", "", "model.bin")),
        ("https://host:81/a/b", Location("https", "host:81", "/a/b")),
        ("HTTP://host", Location("http", "host", "")),
        ("http://host/a/b%20c.safetensors", Location("http", "host", "/a", "b c.safetensors")),
        ("hf://org/name", Location("hf", "org/name", "", None, "main")),
        ("hf://org/name@v1", Location("hf", "org/name", "", None, "v1")),
        ("hf://org/name@refs%2Fpr%2F1/a/b", Location("hf", "org/name", "a/b", None, "refs/pr/1")),
        ("hf://org/name/a.safetensors", Location("hf", "org/name", "", "a.safetensors", "main")),
    ],
)  # fmt: skip
def test_location_is_parsed(text, expected):
    assert parse_location(text) == expected


def test_location_keeps_what_a_url_authorizes_with():
    location = parse_location("https://user:pass@host/a?sig=1")

    assert (location.userinfo, location.authority, location.query) == ("user:pass", "host", "sig=1")


def test_location_of_a_file_without_a_suffix_is_a_file(tmp_path):
    (tmp_path / "blob").write_bytes(b"")

    assert parse_location(tmp_path / "blob") == Location("file", "", str(tmp_path), "blob")


def test_location_of_a_directory_with_a_suffix_is_a_directory(tmp_path):
    (tmp_path / "a.safetensors").mkdir()

    assert parse_location(tmp_path / "a.safetensors").file_name is None


def test_location_of_a_path_object_is_never_a_url():
    assert parse_location(Path("s3://bucket")).scheme == "file"


@pytest.mark.parametrize(
    "text",
    ["/", "/a", "a/b.safetensors", "s3://bucket", "s3://bucket/a/b.safetensors", "http://host/a",
     "https://host:81/a/b.safetensors", "hf://org/name@main", "hf://org/name@v1/sub"],
)  # fmt: skip
def test_location_reads_as_it_was_written(text):
    assert str(parse_location(text)) == text


@pytest.mark.parametrize("show", [str, repr])
def test_location_shows_no_credentials(show):
    shown = show(parse_location("https://user:secret@host/a.safetensors?X-Amz-Signature=secret"))

    assert "host" in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("gs://bucket/a", r"gs:// is not supported; use a path, file://, s3://"),
        ("file://server/a", "absolute path and no host"),
        ("s3:///a", "expected s3://bucket"),
        ("http:///a", "no host"),
        ("http://host:port/a", "not a valid URL"),
        ("http://[::1/a", "not a valid URL"),
        ("http://host/a\n", "not printable"),
        ("http://hôst/a", "in ASCII"),
        ("hf://name", "expected hf://org/name"),
        ("hf://org/@v1", "expected hf://org/name"),
        ("hf://org/name/../b", "expected hf://org/name"),
    ],
)
def test_location_that_is_none_is_refused(text, match):
    with pytest.raises(LocationError, match=match):
        parse_location(text)


@pytest.mark.parametrize(
    "text",
    ["gs://u:secret@bucket/a?t=secret#secret", "s3://key:secret@bucket/a", "http://u:secret@h:x/a",
     "http://u:secret@host/\n?secret", "hf://u:secret@org/name@v1"],
)  # fmt: skip
def test_location_that_is_refused_repeats_no_credentials(text):
    with pytest.raises(LocationError) as caught:
        parse_location(text)

    assert "secret" not in str(caught.value)


def test_redacted_keeps_scheme_host_and_path():
    assert redacted("https://u:p@host:1/a/b?c=d@e#f") == "https://host:1/a/b"
