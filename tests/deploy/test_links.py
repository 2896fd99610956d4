"""Measured links."""

import json
from dataclasses import asdict

from pilotlight_deploy.links import Link, Links, measure_disk, store_links


def test_disk_is_measured_and_nothing_left(tmp_path):
    link = measure_disk(tmp_path)

    assert link.bytes_per_s > 0
    assert link.measured_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_links_are_stored_whole(tmp_path):
    links = Links(1.0, Link(2e9, 100, "copy"), Link(1e9, 100, "O_DIRECT"))

    path = store_links(links, tmp_path)

    assert json.loads(path.read_text()) == asdict(links)
    assert [file.name for file in tmp_path.iterdir()] == ["links.json"]
