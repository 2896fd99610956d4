"""Redirects over HTTP: followed once, without credentials elsewhere, and not for ever."""

from __future__ import annotations

import pytest
from support.object_server import (
    answer,
    redirect,
)
from support.reading import DATA, read

from pilotlight_loader.errors import (
    RangeAnswerError,
)
from pilotlight_loader.sources.http_exchange import MAX_REDIRECTS


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_http_redirect_is_followed(http_store, server, status):
    server.script("/model/link", redirect("blob", status))

    assert http_store().open("link").version.nbytes == len(DATA)


def test_http_redirect_is_followed_once_for_all_ranges(http_store, server):
    server.always = None
    server.script("/model/link", redirect("/model/blob"))
    source = http_store().open("link")
    read(source, 0, 10)
    read(source, 10, 10)

    paths = [seen.path for seen in server.gets]
    assert paths == ["/model/link", *["/model/blob"] * 3]


@pytest.mark.parametrize("status", [403, 404])
def test_http_redirect_that_has_expired_is_asked_for_again(http_store, server, status):
    server.script("/model/link", redirect("blob?sig=old"), redirect("blob?sig=new"))
    source = http_store().open("link")
    server.script("/model/blob", answer(status))

    assert read(source, 0, 10) == DATA[:10]
    assert server.requests[-1].path == "/model/blob?sig=new"


def test_http_redirect_elsewhere_takes_no_credentials_along(http_store, server, other_server):
    other_server.put("/cdn", DATA)
    server.script("/model/link", redirect(f"{other_server.url}/cdn?sig=1"))
    source = http_store(headers={"Authorization": "Bearer t", "X-Key": "k"}).open("link")
    read(source, 0, 10)

    assert [seen.path for seen in other_server.requests] == ["/cdn?sig=1"] * 2
    assert not {"authorization", "x-key"} & other_server.requests[0].headers.keys()


def test_http_redirect_in_place_takes_credentials_along(http_store, server):
    server.script("/model/link", redirect("blob"))
    http_store(headers={"Authorization": "Bearer t"}).open("link")

    assert server.requests[1].headers["authorization"] == "Bearer t"


def test_http_redirects_in_a_circle_end(http_store, server):
    server.always = redirect("blob")

    with pytest.raises(RangeAnswerError, match=f"more than {MAX_REDIRECTS} redirects"):
        http_store().open("blob")


@pytest.mark.parametrize("to", ["ftp://host/x?sig=secret", "http://host:port/?sig=secret"])
def test_http_redirect_to_what_is_no_http_is_refused(http_store, server, to):
    server.always = redirect(to)

    with pytest.raises(RangeAnswerError, match="redirected to") as caught:
        http_store().open("blob")
    assert "secret" not in str(caught.value)
