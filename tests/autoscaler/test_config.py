import pytest
from pydantic import ValidationError

from pilotlight_autoscaler.config import AutoscalingConfig


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("90s", 90.0),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("1.5m", 90.0),
        (" 3s ", 3.0),
        (0, 0.0),
        (7.25, 7.25),
    ],
)
def test_config_duration(written: object, seconds: float) -> None:
    config = AutoscalingConfig.model_validate({"idle_timeout_s": written})

    assert config.idle_timeout_s == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["", "10", "ten minutes", "10 m", "-5s", "1e3s", "5d", "m"])
def test_config_refuses_what_is_no_duration(written: str) -> None:
    with pytest.raises(ValidationError, match="is not a duration: write seconds"):
        AutoscalingConfig.model_validate({"idle_timeout_s": written})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_replicas", -1),
        ("max_replicas", 0),
        ("max_ongoing_requests", 0),
        ("target_ongoing_requests", 0),
        ("target_ongoing_requests", float("nan")),
        ("max_queued_requests", 0),
        ("idle_timeout_s", -1),
        ("idle_timeout_s", float("inf")),
        ("idle_timeout_s", None),
        ("upscale_delay_s", -1),
        ("upscale_delay_s", float("nan")),
        ("upscaling_factor", 0),
        ("upscaling_factor", float("inf")),
        ("placement", {"prefer": "room"}),
        ("cold_start_timeout_s", 0),
        ("cold_start_timeout_s", "0s"),
        ("cold_start_timeout_s", float("nan")),
    ],
)
def test_config_refuses_values_out_of_range(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        AutoscalingConfig.model_validate({field: value})


def test_config_refuses_unknown_keys() -> None:
    with pytest.raises(ValidationError, match=r"idle_timeout\n.*Extra inputs"):
        AutoscalingConfig.model_validate({"idle_timeout": 5})


def test_config_min_replicas_within_max() -> None:
    with pytest.raises(ValidationError, match=r"min_replicas \(3\) is above max_replicas \(2\)"):
        AutoscalingConfig(min_replicas=3, max_replicas=2)

    assert AutoscalingConfig(min_replicas=2, max_replicas=2).min_replicas == 2


def test_config_target_within_max_ongoing_requests() -> None:
    with pytest.raises(ValidationError, match=r"target_ongoing_requests \(9\) is above"):
        AutoscalingConfig(target_ongoing_requests=9, max_ongoing_requests=8)

    assert AutoscalingConfig(target_ongoing_requests=8, max_ongoing_requests=8).target == 8


@pytest.mark.parametrize(
    ("max_ongoing_requests", "target"), [(1, 1.0), (2, 1.4), (8, 5.6), (32, 22.4)]
)
def test_config_default_target(max_ongoing_requests: int, target: float) -> None:
    config = AutoscalingConfig(max_ongoing_requests=max_ongoing_requests)

    assert config.target == pytest.approx(target)


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        AutoscalingConfig().max_replicas = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "field", ["min_replicas", "max_replicas", "max_ongoing_requests", "max_queued_requests"]
)
def test_config_count_beyond_reason_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal"):
        AutoscalingConfig.model_validate({field: 10**400})


@pytest.mark.parametrize("value", [1e300, "9" * 400 + "s"])
def test_config_duration_beyond_reason_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        AutoscalingConfig.model_validate({"idle_timeout_s": value})
