"""Quantities as people read them."""

import pytest

from pilotlight_deploy.render.units import count, duration, parse_size, rate, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00004, "0.0 ms"),
        (0.0021, "2.1 ms"),
        (0.212, "212 ms"),
        (0.9996, "1.00 s"),
        (62, "62.00 s"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (999_600, "1 MB"), (746_000_000, "746 MB"), (2e15, "2000 TB")],
)
def test_size(nbytes, text):
    assert size(nbytes) == text


def test_count():
    assert [count(n) for n in (7, 1_054_000, 7e9)] == ["7", "1.05 M", "7 B"]


def test_rate_never_has_an_exponent():
    assert rate(746_000_000, 0.000003) == "248667 GB/s"
    assert rate(0, 1.0) == rate(1, 0.0) == ""


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("123", 123), ("746MB", 746_000_000), ("1.5 TB", 1_500_000_000_000), ("2kB", 2000), ("0", 0)],
)
def test_parse_size(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "-1", "1x", "1GiB", "1e3"])
def test_parse_size_refuses(text):
    with pytest.raises(ValueError, match="is not a size: write it as in 200GB"):
        parse_size(text)
