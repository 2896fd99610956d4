import re

import pytest

from pilotlight_autoscaler import foreign_keys
from pilotlight_autoscaler.config import AutoscalingConfig, KeepAliveConfig, PanicConfig
from pilotlight_autoscaler.foreign_keys import instead_of
from pilotlight_autoscaler.pool_config import PoolConfig


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("downscale_to_zero_delay_s", "idle_timeout_s is the name here"),
        ("Graceful-Shutdown-Timeout-s", "a busy replica gets no new requests"),
        ("initialReplicas", "min_replicas is the floor"),
        ("max_replicas_per_node", "placement.spread"),
        ("ray_actor_options", "PILOTLIGHT_WORKER_MAX_REPLICAS"),
        ("label_selector", "any worker"),
        ("wait_cost_usd_per_s", "keep_alive.cold_start_weight says it in worker-seconds"),
        ("look_back_period_s", "panic.stable_window_s"),
    ],
)
def test_foreign_key_says_what_stands_in_its_place(key: str, text: str) -> None:
    assert text in (instead_of(key) or "")


def test_foreign_key_of_the_file_itself_says_nothing_inside_of_a_block() -> None:
    assert instead_of("model") == "name is the name here"
    assert instead_of("model", top=False) is None


@pytest.mark.parametrize("key", ["min_replica", "quux", ""])
def test_foreign_key_says_nothing_of_a_misspelt_one(key: str) -> None:
    assert instead_of(key) is None


def test_foreign_keys_are_none_of_ours_and_name_only_ours() -> None:
    ours = {
        name
        for kind in (AutoscalingConfig, KeepAliveConfig, PanicConfig, PoolConfig)
        for name in kind.model_fields
    } | {"on_deploy", "autoscaling", "name"}

    assert not ours & foreign_keys._INSTEAD.keys()
    for text in foreign_keys._INSTEAD.values():
        named = re.findall(r"\b(?:\w+\.)?(\w+_\w+|name|autoscaling) (?:is|are) the name", text)
        assert {each for each in named if each not in ours} == set(), text
