"""Ray Serve's end, beside other applications; no Ray is started."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pilotlight_platform import serve_lifetime
from pilotlight_platform.names import APP
from pilotlight_platform.settings import Settings


@pytest.mark.parametrize("others", [True, False])
def test_end_on_a_joined_cluster_spares_other_apps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    apps = {"theirs": None} if others else {}
    done: list[str] = []
    fake = SimpleNamespace(
        status=lambda: SimpleNamespace(applications=apps, proxies={"node": None}),
        delete=done.append,
        shutdown=lambda: done.append("shutdown"),
    )
    monkeypatch.setattr(serve_lifetime, "serve", fake)
    settings = Settings(home=tmp_path, ray_address="auto")

    serve_lifetime._end_serve(settings, joined=False)
    assert done == ([APP] if others else [APP, "shutdown"])
    serve_lifetime._end_serve(settings, joined=True)
    assert done[-1] == APP
