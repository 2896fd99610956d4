"""A trial's weight is small, and has the tail of the one that it stands in for."""

import pytest

from pilotlight_loader.quantize.trial_shape import trial_shape


@pytest.mark.parametrize("rows", [1, 8, 1000, 1024])
def test_trial_shape_of_a_small_weight_is_its_own(rows) -> None:
    assert trial_shape((rows, 300)) == (rows, 300)


@pytest.mark.parametrize("rows", [1025, 1032, 4095, 4096, 12289, 50257, 128256])
def test_trial_shape_of_a_large_weight_has_its_last_block(rows) -> None:
    tried, columns = trial_shape((rows, 300))

    assert columns == 300
    assert 1024 - 128 < tried <= 1024
    assert tried % 128 == rows % 128
