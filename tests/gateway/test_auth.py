"""Who may call a gateway over HTTP, with a key and without."""

import pytest
from support.scripted_gateway import KEY, ScriptedGateway, bearer, error_of


@pytest.mark.parametrize(
    "path", ["/v1/models", "/api/status", "/docs", "/redoc", "/openapi.json", "/nothing"]
)
@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), {b"authorization": KEY.encode()}], ids=["no", "wrong", "bare"]
)
def test_key_is_needed_everywhere(
    closed_gateway: ScriptedGateway, path: str, headers: dict[bytes, bytes]
) -> None:
    answer = closed_gateway.http.get(path, headers=headers)

    assert error_of(answer, 401)["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_key_comes_before_the_body(closed_gateway: ScriptedGateway) -> None:
    headers = {"content-type": "application/json"}
    answer = closed_gateway.http.post("/v1/completions", content=b"{", headers=headers)

    assert error_of(answer, 401)["code"] == "invalid_api_key"


def test_key_opens_from_any_host(closed_gateway: ScriptedGateway) -> None:
    headers = {**bearer(KEY), b"host": b"models.example.com", b"origin": b"https://example.com"}

    for path in ("/v1/models", "/docs", "/openapi.json"):
        assert closed_gateway.http.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 503)])
def test_probes_need_nothing(
    closed_gateway: ScriptedGateway, gateway: ScriptedGateway, path: str, status: int
) -> None:
    assert closed_gateway.http.get(path).status_code == status
    assert gateway.http.get(path, headers={"host": "10.0.0.7"}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost"},
        {"host": "LOCALHOST:8000"},
        {"host": "[::1]:8000"},
        {"host": "::1"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://[::1]:3000"},
    ],
)
def test_without_a_key_this_machine_may_call(
    gateway: ScriptedGateway, headers: dict[str, str]
) -> None:
    assert gateway.http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost:80@evil.example"},
        {"host": "0.0.0.0"},
        {"host": "[evil.example"},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost.evil.example:8000"},
        {"origin": "null"},
    ],
)
def test_without_a_key_other_sites_may_not_call(
    gateway: ScriptedGateway, headers: dict[str, str]
) -> None:
    answer = gateway.http.post("/v1/completions", json={"model": "m"}, headers=headers)

    error = error_of(answer, 403)
    assert error["code"] == "host_not_allowed"
    assert "PILOTLIGHT_API_KEY" in error["message"]
