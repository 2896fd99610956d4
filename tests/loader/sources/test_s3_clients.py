from __future__ import annotations

import pytest

from pilotlight_loader.sources import s3_clients
from pilotlight_loader.sources.s3_clients import ClientSettings, S3Clients

SETTINGS = ClientSettings(
    profile=None, endpoint_url=None, region=None, addressing_style="auto", anonymous=False
)
OTHERS = ClientSettings(
    profile=None, endpoint_url=None, region="eu", addressing_style="auto", anonymous=False
)


@pytest.fixture
def clients() -> S3Clients:
    """Each made client is an object of its own."""
    return S3Clients(lambda _settings, _location: object())


@pytest.fixture
def credentials(monkeypatch, tmp_path):
    """The file of the keys, which is there."""
    path = tmp_path / "credentials"
    path.write_text("[default]\naws_access_key_id = A\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path


def test_s3_clients_make_one_for_the_same_settings(clients):
    assert clients.get(SETTINGS, "a") is clients.get(SETTINGS, "b")


def test_s3_clients_make_another_for_other_settings(clients):
    assert clients.get(SETTINGS, "a") is not clients.get(OTHERS, "a")


def test_s3_clients_make_another_after_a_change_of_the_environment(clients, monkeypatch):
    before = clients.get(SETTINGS, "a")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")

    assert clients.get(SETTINGS, "a") is not before


def test_s3_clients_make_another_after_a_change_of_the_credentials_file(clients, credentials):
    before = clients.get(SETTINGS, "a")
    credentials.write_text("[default]\naws_access_key_id = LONGER\n")

    assert clients.get(SETTINGS, "a") is not before


def test_s3_clients_make_another_for_one_that_was_refused(clients):
    before = clients.get(SETTINGS, "a")
    clients.forget(before)

    assert clients.get(SETTINGS, "a") is not before


def test_s3_clients_forget_a_refused_one_now_and_then_only():
    now_s = [0.0]
    clients = S3Clients(lambda _settings, _location: object(), lambda: now_s[0])
    first = clients.get(SETTINGS, "a")
    clients.refused(first)
    second = clients.get(SETTINGS, "a")
    clients.refused(second)  # keys that are no good at all
    assert second is not first
    assert clients.get(SETTINGS, "a") is second

    now_s[0] = s3_clients.REFUSED_EVERY_S
    clients.refused(second)
    assert clients.get(SETTINGS, "a") is not second


def test_s3_clients_keep_the_most_recently_used(clients, monkeypatch):
    monkeypatch.setattr(s3_clients, "MAX_CLIENTS", 2)
    first = clients.get(SETTINGS, "a")
    clients.get(OTHERS, "a")
    assert clients.get(SETTINGS, "a") is first
    monkeypatch.setenv("AWS_PROFILE", "third")
    clients.get(SETTINGS, "a")  # in the place of OTHERS
    monkeypatch.delenv("AWS_PROFILE")

    assert clients.get(SETTINGS, "a") is first


def test_s3_clients_let_a_failure_through_and_keep_nothing():
    calls = []

    def make(_settings, _location):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return object()

    clients = S3Clients(make)
    with pytest.raises(ZeroDivisionError):
        clients.get(SETTINGS, "a")

    assert clients.get(SETTINGS, "a") is not None
