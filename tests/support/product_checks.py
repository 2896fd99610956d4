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
    """Where a thread for each of *xs* asks at the same time."""
    expected = [multiply(x) for x in xs]
    wrong: list[int] = []

    def ask(which: int) -> None:
        answers = (multiply(xs[which]) for _ in range(_ASKED))
        wrong.extend(which for answer in answers if not torch.equal(answer, expected[which]))

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_TIMEOUT_S)

    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
