"""Settings that follow from others."""

from pathlib import Path

import psutil

from pilotlight_platform.settings import Settings


def test_keys_and_values_have_a_quarter_of_memory_between_the_workers(tmp_path: Path) -> None:
    memory = psutil.virtual_memory().total

    assert Settings(home=tmp_path, workers=1).kv_cache_bytes_per_worker == memory // 4
    assert Settings(home=tmp_path, workers=3).kv_cache_bytes_per_worker == memory // 4 // 3


def test_keys_and_values_of_a_worker_can_be_set(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, workers=3, worker_kv_cache_bytes=1000)

    assert settings.kv_cache_bytes_per_worker == 1000
