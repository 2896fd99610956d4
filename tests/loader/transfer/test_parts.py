"""Plans: every asked byte once, in the asked order, where a view of its type can stand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_loader.header import TensorInfo
from pilotlight_loader.transfer.parts import TransferPlan, WantedTensor, plan_transfer


def tensor(name: str, start: int, nbytes: int, file: str = "f") -> WantedTensor:
    return WantedTensor(TensorInfo(name, "U8", (nbytes,), start, start + nbytes), file)


@st.composite
def requests(draw: st.DrawFn) -> list[WantedTensor]:
    """Some of the tensors of two files, in any order."""
    found = []
    for file in ("a", "b"):
        at = draw(st.integers(0, 5000))
        for number, nbytes in enumerate(draw(st.lists(st.integers(0, 300), max_size=12))):
            if draw(st.booleans()):
                found.append(tensor(f"{file}{number}", at, nbytes, file))
            at += nbytes
    return draw(st.permutations(found))


def plan_of(wanted: list[WantedTensor], part: int, span: int, gap: int) -> TransferPlan:
    return plan_transfer(wanted, {"a": part, "b": part}, range_bytes=span, gap_bytes=gap)


sizes = st.integers(1, 500)


@given(requests(), sizes, sizes, sizes)
def test_parts_bring_every_asked_byte_to_its_place(wanted, part, span, gap):
    plan = plan_of(wanted, part, span, gap)

    for asked in wanted:
        placement = plan.placements[asked.info.name]
        brought = sorted((plan.parts[index] for index in placement.parts), key=lambda p: p.start)
        covered = [
            (offset, each.range, each.at + offset - each.start)
            for each in brought
            for offset in range(max(each.start, asked.info.start), min(each.end, asked.info.end))
        ]
        assert covered == [
            (offset, placement.range, placement.at + offset - asked.info.start)
            for offset in range(asked.info.start, asked.info.end)
        ]


@given(requests(), sizes, sizes, sizes)
def test_parts_do_not_overlap(wanted, part, span, gap):
    plan = plan_of(wanted, part, span, gap)
    spans = sorted((each.file, each.start, each.end) for each in plan.parts)

    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in pairwise(spans))


@given(requests(), sizes, sizes, sizes)
def test_parts_stand_in_the_order_of_first_need(wanted, part, span, gap):
    plan = plan_of(wanted, part, span, gap)
    needed = [index for asked in wanted for index in plan.placements[asked.info.name].parts]

    assert list(dict.fromkeys(needed)) == list(range(len(plan.parts)))


@given(requests(), sizes, sizes, sizes)
def test_parts_are_no_larger_than_asked_and_lie_in_their_range(wanted, part, span, gap):
    plan = plan_of(wanted, part, span, gap)

    for each in plan.parts:
        found = plan.ranges[each.range]
        assert 0 < each.nbytes <= part
        assert found.file == each.file
        assert found.start <= each.start < each.end <= found.end
        assert each.at + each.nbytes <= found.nbytes


@given(requests(), sizes, sizes, sizes)
def test_ranges_hold_no_gap_that_is_as_long_as_gap_bytes(wanted, part, span, gap):
    plan = plan_of(wanted, part, span, gap)

    for found in plan.ranges:
        inside = sorted(
            (w.info.start, w.info.end)
            for w in wanted
            if w.file == found.file and found.start <= w.info.start < found.end and w.info.nbytes
        )
        assert all(after[0] - before[1] < gap for before, after in pairwise(inside))


@given(requests(), sizes, sizes, sizes)
def test_ranges_begin_with_a_tensor_that_stands_on_256_bytes(wanted, part, span, gap):
    plan = plan_of(wanted, part, span, gap)
    starts = {(w.file, w.info.start) for w in wanted if w.info.nbytes}

    for found in plan.ranges:
        assert (found.file, found.start) in starts
        assert found.base % 256 == 0


def test_plan_reads_no_gap_that_falls_into_no_part():
    wanted = [tensor("first", 0, 10), tensor("last", 95, 5)]

    plan = plan_transfer(wanted, {"f": 10}, gap_bytes=1000)

    assert [(part.start, part.end) for part in plan.parts] == [(0, 10), (90, 100)]


def test_plan_cuts_ranges_at_the_first_tensor_end_behind_range_bytes():
    wanted = [tensor("a", 0, 60), tensor("b", 60, 60), tensor("c", 120, 60)]

    plan = plan_transfer(wanted, {"f": 1000}, range_bytes=100)

    assert [(found.start, found.end) for found in plan.ranges] == [(0, 120), (120, 180)]


def test_plan_keeps_memory_and_file_alike_modulo_a_page_where_tensors_are_aligned():
    plan = plan_transfer([tensor("a", 4096 + 512, 10)], {"f": 4096})

    assert plan.ranges[0].base == 512


@pytest.mark.parametrize(("part", "span"), [(0, 1), (1, 0)])
def test_plan_refuses_sizes_of_nothing(part, span):
    with pytest.raises(ValueError, match="at least 1"):
        plan_transfer([tensor("a", 0, 1)], {"f": part}, range_bytes=span)
