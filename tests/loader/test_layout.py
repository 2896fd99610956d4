from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_loader import plan_layout

relaxed = settings(deadline=None)  # the machine may be busy
SIZES = st.lists(st.integers(0, 5000)).map(
    lambda sizes: [(f"t{i}", n) for i, n in enumerate(sizes)]
)


@relaxed
@given(SIZES)
def test_layout_covers_its_bytes_without_gap_or_overlap(sizes):
    layout = plan_layout(sizes)

    at = 0
    for slot in layout.slots:
        assert slot.start == at
        at = slot.end
    assert at == layout.nbytes


@relaxed
@given(SIZES)
def test_layout_aligns_every_tensor(sizes):
    assert all(slot.start % 256 == 0 for slot in plan_layout(sizes).slots if not slot.is_pad)


@relaxed
@given(SIZES)
def test_layout_keeps_order_and_sizes(sizes):
    slots = [slot for slot in plan_layout(sizes).slots if not slot.is_pad]

    assert [(slot.name, slot.end - slot.start) for slot in slots] == sizes


@relaxed
@given(SIZES)
def test_layout_pads_less_than_one_alignment_per_tensor(sizes):
    pads = [slot for slot in plan_layout(sizes).slots if slot.is_pad]

    assert all(0 < pad.end - pad.start < 256 for pad in pads)
    assert len({pad.name for pad in pads}) == len(pads)


def test_layout_ends_with_a_tensor():
    assert plan_layout([("a", 300), ("b", 1)]).nbytes == 513


@pytest.mark.parametrize("sizes", [[("a", 1), ("a", 1)], [("__pad__.0", 1)], [("a", -1)]])
def test_layout_refuses_what_cannot_be_laid_out(sizes):
    with pytest.raises(ValueError, match="cannot lay out"):
        plan_layout(sizes)
