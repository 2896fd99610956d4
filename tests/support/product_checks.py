"""What holds for every compiled kernel, whatever it makes."""

import threading
from collections.abc import Callable, Sequence

import torch

_ASKED = 50  # times by each thread
_TIMEOUT_S = 60


def assert_same_bits_by_any_threads(make: Callable[[], torch.Tensor]) -> None:
    """However many threads share the work."""
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            made.append(make())
    finally:
        torch.set_num_threads(before)

    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def assert_right_for_each_of_several(
    multiply: Callable[[torch.Tensor], torch.Tensor], xs: Sequence[torch.Tensor]
) -> None:
    """Where a thread for each of *xs* asks at the same time.

    For all of them in turn, negated, too, and keeps what it gets: memory that is used again would
    hold the right numbers of x and of the product before any are written there.
    """
    count = len(xs)
    xs = [signed for x in xs for signed in (x, -x)]
    expected = [multiply(x) for x in xs]
    wrong: list[int] = []

    def ask(first: int) -> None:
        asked = [(first + turn) % len(xs) for turn in range(_ASKED)]
        answers = [multiply(xs[which]) for which in asked]
        pairs = zip(asked, answers, strict=True)
        wrong.extend(which for which, answer in pairs if not torch.equal(answer, expected[which]))

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_TIMEOUT_S)

    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
