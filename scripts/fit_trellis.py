"""Fit the tables of the loader's trellis (quantize/trellis.py) to a normal distribution.

    PYTHONPATH=loader:scripts python -m fit_trellis

Lloyd's way: codes for random weights by search, then the values that leave those codes the least
squared error, in turn. One thread, some minutes; the same tables each time with the same
torch. Prints them, and what they leave of the variance of weights that they were not fitted to.
"""

from __future__ import annotations

import torch
from torch.nn import functional

CODES, TABLES = 16, 3
STARTS = 8  # they end in different places; the best is taken
ROUNDS, ROWS, COLUMNS, SURVIVORS = 150, 256, 64, 24
UNSEEN = 1_000_003  # no start's seed
SHIFT = 0.3  # of the first values of the later tables, in the first's deviation
KEPT = 0.8  # of what the rounds before have counted: codes are random, values should not be
DAMPING = 1e-4
LARGEST = 127  # of a sum of integers


def main() -> None:
    torch.set_num_threads(1)
    left, numbers, deviation = min(map(fit, range(STARTS)), key=lambda fitted: fitted[0])
    for table in numbers.int().tolist():
        print(tuple(table))
    print(f"deviation {deviation:.3f}; left with {SURVIVORS} survivors: {left:.5f}")


def fit(seed: int) -> tuple[float, torch.Tensor, float]:
    """What is left of the variance, the tables, and the weights' deviation in their units."""
    generator = torch.Generator().manual_seed(seed)
    tables = first_tables(generator)
    counts, sums = torch.zeros(TABLES * CODES, TABLES * CODES), torch.zeros(TABLES * CODES)
    for _ in range(ROUNDS):
        weights = torch.randn(ROWS, COLUMNS, generator=generator)
        chosen = one_hot(search(weights, tables, SURVIVORS)).flatten(0, 1)
        counts = KEPT * counts + chosen.t() @ chosen
        sums = KEPT * sums + chosen.t() @ weights.flatten()
        damping = DAMPING * counts.diagonal().mean()
        damped = counts + damping * torch.eye(len(counts))
        tables = torch.linalg.solve(damped, sums + damping * tables.flatten()).view(TABLES, CODES)
    tables = tables[:, tables[0].argsort()]
    means = tables[1:].mean(1, keepdim=True)
    tables[1:] -= means
    tables[0] += means.sum()
    deviation = LARGEST / float(max(tables.amax(1).sum(), -tables.amin(1).sum()))
    numbers = (tables * deviation).round()
    weights = torch.randn(256, 256, generator=torch.Generator().manual_seed(UNSEEN))
    codes = search(weights * deviation, numbers, SURVIVORS)
    read = (one_hot(codes) @ numbers.flatten()) / deviation
    left = float((read - weights).square().mean())
    print(f"start {seed}: {left:.5f}", flush=True)
    return left, numbers, deviation


def first_tables(generator: torch.Generator) -> torch.Tensor:
    """[tables, codes]: quantiles of a normal distribution, those of later tables in any order."""
    quantiles = torch.erfinv((torch.arange(CODES) + 0.5) / (CODES / 2) - 1) * 2**0.5
    shifts = [
        SHIFT * quantiles[torch.randperm(CODES, generator=generator)] for _ in range(TABLES - 1)
    ]
    return torch.stack((quantiles * (1 - SHIFT**2 * (TABLES - 1)) ** 0.5, *shifts))


def search(weights: torch.Tensor, tables: torch.Tensor, survivors: int) -> torch.Tensor:
    """Codes [N, C] for *weights* [N, C]; trellis_search.py has it for given tables, with more."""
    cost = torch.zeros(len(weights), 1)
    past = torch.zeros(len(weights), 1, TABLES - 1, dtype=torch.int64)
    parents, codes = [], []
    for wanted in weights.t():
        shift = sum(tables[back][past[:, :, back - 1]] for back in range(1, TABLES))
        off = wanted[:, None, None] - shift[..., None] - tables[0]
        total = (off.square() + cost[..., None]).flatten(1)
        cost, kept = total.topk(min(survivors, total.shape[1]), largest=False, sorted=False)
        parent, code = kept // CODES, kept % CODES
        before = past.gather(1, parent[..., None].expand(-1, -1, TABLES - 1))
        past = torch.cat((code[..., None], before[..., :-1]), -1)
        parents.append(parent)
        codes.append(code)
    best = cost.argmin(1, keepdim=True)
    found = []
    for parent, code in zip(reversed(parents), reversed(codes), strict=True):
        found.append(code.gather(1, best))
        best = parent.gather(1, best)
    return torch.cat(found[::-1], 1)


def one_hot(codes: torch.Tensor) -> torch.Tensor:
    """[N, C, tables * codes]: which value of each table a weight takes."""
    before = functional.pad(codes, (TABLES - 1, 0))
    return torch.cat(
        [
            functional.one_hot(before[:, TABLES - 1 - back :][:, : codes.shape[1]], CODES)
            for back in range(TABLES)
        ],
        -1,
    ).float()


if __name__ == "__main__":
    main()
