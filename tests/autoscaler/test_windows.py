"""A load over time."""

import pytest

from pilotlight_autoscaler.windows import LoadWindow


@pytest.mark.parametrize("window_s", [7, 10, 20, 60])
def test_load_window_keeps_all_of_a_long_constant_load(window_s: float) -> None:
    """Whatever the edges of its buckets are rounded to."""
    window = LoadWindow(window_s)
    window.observe(2.0, 1000.0)
    window.observe(1.0, 1000.0 + 1.5 * window_s)

    assert window.mean(1000.0 + 1.5 * window_s) == pytest.approx(2.0)
