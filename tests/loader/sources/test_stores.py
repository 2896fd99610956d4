from __future__ import annotations

from dataclasses import replace

import pytest

from pilotlight_loader.errors import LocationError
from pilotlight_loader.sources.http import HttpStore
from pilotlight_loader.sources.http_object import HttpOptions
from pilotlight_loader.sources.local import LocalOptions, LocalStore
from pilotlight_loader.sources.location import parse_location
from pilotlight_loader.sources.s3 import S3Options
from pilotlight_loader.sources.stores import OPENERS, open_store


@pytest.mark.parametrize(("text", "kind"), [("/a", LocalStore), ("http://h/a", HttpStore)])
def test_open_store_opens_by_scheme(text, kind):
    with open_store(parse_location(text)) as store:
        assert isinstance(store, kind)


def test_open_store_passes_options_on(tmp_path):
    (tmp_path / "blob").write_bytes(b"1")
    with open_store(parse_location(tmp_path), LocalOptions(parallel=3, part_bytes=5)) as store:
        source = store.open("blob")

        assert (source.parallel, source.part_bytes) == (3, 5)


def test_open_store_refuses_options_of_another_kind():
    with pytest.raises(TypeError, match="expected HttpOptions, not S3Options"):
        open_store(parse_location("http://h/a"), S3Options())


def test_open_store_refuses_a_scheme_that_nobody_opens():
    with pytest.raises(LocationError, match="gs:// is not supported"):
        open_store(replace(parse_location("s3://bucket"), scheme="gs"))


@pytest.mark.parametrize(
    "text", ["/a", "file:///a", "s3://b", "http://h/a", "https://h/a", "hf://org/name"]
)
def test_open_store_knows_every_scheme_that_is_parsed(text):
    assert parse_location(text).scheme in OPENERS


def test_options_show_no_secrets():
    options = HttpOptions(headers={"Authorization": "Bearer secret"})

    assert "secret" not in repr(options)
