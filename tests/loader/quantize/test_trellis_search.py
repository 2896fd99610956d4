"""The codes that a search finds against those that every way of coding a few columns has."""

import itertools

import pytest
import torch

from pilotlight_loader.quantize.trellis import DEVIATION, TABLES
from pilotlight_loader.quantize.trellis_search import Found, nothing_before, search

ROWS, ENOUGH = 24, 1 << 10  # survivors: all ways to code so few columns
CASES = [(1, False), (3, False), (4, False), (3, True), (4, True)]
NUMBERS = torch.tensor(TABLES, dtype=torch.float64)


def some(columns: int, with_corner: bool, rows: int = ROWS):
    """(weights, scale, before, corner)."""
    generator = torch.Generator().manual_seed(columns)
    weights = torch.randn(rows, columns, generator=generator)
    scale = torch.rand(rows, generator=generator).mul(0.2).add(0.9) / DEVIATION
    before = torch.randint(0, 16, (rows, 2), generator=generator)
    corner = None
    if with_corner:
        x = torch.randn(4 * columns, columns, generator=generator)
        corner = torch.linalg.cholesky(torch.linalg.inv(x.t() @ x), upper=True)
    return weights, scale, before, corner


def errors_of(weights, scale, before, corner, codes) -> torch.Tensor:
    """[P, C]: of one row, coded in the ways *codes* [P, C]; float64."""
    columns = codes.shape[1]
    known = torch.cat((before.expand(len(codes), 2), codes.long()), 1)
    numbers = sum(NUMBERS[back][known[:, 2 - back :][:, :columns]] for back in range(3))
    left = weights.double().expand(len(codes), columns).clone()
    root = torch.eye(columns) if corner is None else corner
    errors = torch.empty_like(left)
    for at in range(columns):
        errors[:, at] = (left[:, at] - numbers[:, at] * float(scale)) / float(root[at, at])
        left[:, at + 1 :] -= errors[:, at, None] * root[at, at + 1 :].double()
    return errors


def costs(given, codes: torch.Tensor) -> torch.Tensor:
    """[N]: of each row's own *codes* [N, C]."""
    weights, scale, before, corner = given
    rows = [
        errors_of(weights[row], scale[row], before[row], corner, codes[row : row + 1])
        for row in range(len(codes))
    ]
    return torch.cat(rows).square().sum(1)


def least(given) -> torch.Tensor:
    """[N]: of all ways to code each row."""
    weights, scale, before, corner = given
    ways = torch.tensor(list(itertools.product(range(16), repeat=weights.shape[1])))
    return torch.stack(
        [
            errors_of(weights[row], scale[row], before[row], corner, ways).square().sum(1).min()
            for row in range(len(weights))
        ]
    )


def least_of_pairs(given) -> torch.Tensor:
    """[N]: of the ways that take for each column the code below or the one above."""
    weights, scale, before, corner = given
    found = []
    for row in range(len(weights)):
        ways = torch.empty(1, 0, dtype=torch.int64)
        for at in range(weights.shape[1]):
            codes = torch.arange(16).repeat(len(ways))[:, None]
            longer = torch.cat((ways.repeat_interleave(16, 0), codes), 1)
            part = None if corner is None else corner[: at + 1, : at + 1]
            off = errors_of(weights[row, : at + 1], scale[row], before[row], part, longer)
            below = (off[:, -1].view(len(ways), 16) > 0).sum(1).sub(1).clamp(0, 14)
            pairs = torch.stack((below, below + 1), 1).flatten()[:, None]
            ways = torch.cat((ways.repeat_interleave(2, 0), pairs), 1)
        off = errors_of(weights[row], scale[row], before[row], corner, ways)
        found.append(off.square().sum(1).min())
    return torch.stack(found)


@pytest.mark.parametrize(("columns", "with_corner"), CASES)
def test_search_finds_the_best_of_all_that_it_looks_at(columns, with_corner) -> None:
    given = some(columns, with_corner)
    found = search(*given, ENOUGH)

    assert found.codes.dtype == torch.uint8
    assert torch.allclose(costs(given, found.codes), least_of_pairs(given), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("columns", "with_corner", "worse"),
    [(1, False, 1.0001), (3, False, 1.03), (4, False, 1.03), (3, True, 1.05), (4, True, 1.15)],
)
def test_search_by_two_codes_leaves_little_of_what_all_sixteen_would_gain(
    columns, with_corner, worse
) -> None:
    """Of weights that are not at the tables' ends, for which codes before have to be others."""
    weights, *others = some(columns, with_corner, rows=64)
    given = weights.clamp(-1.5, 1.5), *others
    best, ours = float(least(given).sum()), float(costs(given, search(*given, ENOUGH).codes).sum())

    assert best * 0.9999 <= ours <= best * worse


@pytest.mark.parametrize("with_corner", [False, True])
def test_search_says_the_errors_that_its_codes_make(with_corner) -> None:
    given = weights, scale, before, corner = some(6, with_corner)
    found = search(*given, 4)
    for row in range(ROWS):
        exact = errors_of(weights[row], scale[row], before[row], corner, found.codes[row : row + 1])

        assert torch.allclose(found.errors[row].double(), exact[0], rtol=1e-3, atol=1e-4)
    assert torch.allclose(found.cost, found.errors.square().sum(1), rtol=1e-3)


def test_search_takes_each_row_from_where_it_costs_less() -> None:
    weights, scale, before, corner = some(6, True)
    found = [search(weights, scale * by, before, corner, 8) for by in (0.8, 1.25)]
    is_other = found[1].cost < found[0].cost
    best = found[0].or_better(found[1])

    assert 0 < int(is_other.sum()) < ROWS
    for row, other in enumerate(is_other.int().tolist()):
        for part in ("codes", "errors", "cost", "before"):
            assert torch.equal(getattr(best, part)[row], getattr(found[other], part)[row])


@pytest.mark.parametrize("with_corner", [False, True])
def test_search_with_one_survivor_takes_the_nearest_code_each_time(with_corner) -> None:
    weights, scale, before, corner = some(8, with_corner)
    found = search(weights, scale, before, corner, 1)
    for row in range(ROWS):
        codes = torch.empty(1, 0, dtype=torch.int64)
        for at in range(8):
            ways = torch.cat((codes.expand(16, at), torch.arange(16)[:, None]), 1)
            part = None if corner is None else corner[: at + 1, : at + 1]
            off = errors_of(weights[row, : at + 1], scale[row], before[row], part, ways)[:, -1]
            codes = ways[off.abs().argmin()][None]

        assert found.codes[row].tolist() == codes[0].tolist()


@pytest.mark.parametrize("with_corner", [False, True])
def test_search_with_more_survivors_leaves_less(with_corner) -> None:
    given = some(40, with_corner, rows=100)
    left = [
        float(costs(given, search(*given, survivors).codes).sum()) for survivors in (1, 2, 8, 32)
    ]

    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.8 * left[0]


def test_search_follows_the_codes_before() -> None:
    """The same weights have other codes after others: as a search of both parts at once says."""
    weights, scale, _, _ = some(4, False)
    found: dict[tuple[int, int], Found] = {}
    for before in ((0, 0), (15, 3), (3, 15)):
        after = torch.tensor([before] * ROWS)
        found[before] = search(weights, scale, after, None, ENOUGH)
        given = weights, scale, after, None

        assert torch.allclose(
            costs(given, found[before].codes), least_of_pairs(given), rtol=1e-4, atol=1e-7
        )
    assert not torch.equal(found[15, 3].codes, found[3, 15].codes)


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_search_says_the_codes_before_what_follows(columns) -> None:
    weights, scale, before, _ = some(columns, False)
    found = search(weights, scale, before, None, 4)
    last = torch.cat((before, found.codes.long()), 1)[:, -2:]

    assert torch.equal(found.before, last)


@pytest.mark.parametrize("with_corner", [False, True])
def test_search_without_a_scale_stays_finite(with_corner) -> None:
    weights, scale, before, corner = some(6, with_corner)
    scale[3] = 0
    weights[3] = 0
    found = search(weights, scale, before, corner, 8)

    assert found.errors.isfinite().all()
    assert not found.errors[3].any()
    assert int(found.codes.max()) <= 15
    others = torch.arange(ROWS) != 3
    alone = search(weights[others], scale[others], before[others], corner, 8)
    assert torch.equal(found.codes[others], alone.codes)


@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_search_for_weights_beyond_the_tables_takes_the_outermost_codes(far) -> None:
    scale = torch.ones(1) / DEVIATION
    found = search(torch.full((1, 5), far), scale, nothing_before(1), None, ENOUGH)

    assert found.codes[0, -1] == (15 if far > 0 else 0)
    assert found.errors.isfinite().all()
