"""One sum, and one factor of its inverse, for all weights that read the same inputs."""

import pytest
import torch
from torch import nn

from pilotlight_loader.quantize.inverse_root import inverse_root
from pilotlight_platform.engine import input_sums
from pilotlight_platform.engine.input_sums import InputSums

NAMES = [f"layers.0.{name}.weight" for name in ("gate", "up", "down")]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor, changed: float = 0.0) -> torch.Tensor:
        gate = self.gate(x)
        if changed:
            x = x * changed
        return self.down(gate.sigmoid() * self.up(x))


def read() -> torch.Tensor:
    return torch.randn(1, 32, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def factored(monkeypatch) -> list[torch.Tensor]:
    """The sums that were factored."""
    seen = []

    def look(hessian: torch.Tensor) -> torch.Tensor:
        seen.append(hessian.clone())
        return inverse_root(hessian)

    monkeypatch.setattr(input_sums, "inverse_root", look)
    return seen


def test_input_sums_add_up_what_weights_read(factored) -> None:
    layer, sums, x = Gated(), InputSums(), read()
    with torch.no_grad(), sums.summing("layers.0", layer, NAMES):
        layer(x)
        layer(2 * x)
    sums.take_root(NAMES[0])

    torch.testing.assert_close(factored[0], 5 * x[0].t() @ x[0])


def test_input_sums_are_shared_by_weights_that_read_one_tensor(factored) -> None:
    layer, sums = Gated(), InputSums()
    with torch.no_grad(), sums.summing("layers.0", layer, NAMES):
        layer(read())
    gate, up, down = (sums.take_root(name) for name in NAMES)

    assert gate is up
    assert down is not up
    assert len(factored) == 2


def test_input_sums_forget_a_root_that_no_weight_needs_any_more() -> None:
    layer, sums = Gated(), InputSums()
    with torch.no_grad(), sums.summing("layers.0", layer, NAMES):
        layer(read())
    for name in NAMES:
        sums.take_root(name)

    assert [sums.take_root(name) for name in NAMES] == [None] * 3
    assert not sums._roots


def test_input_sums_are_apart_where_a_tensor_was_written_in_between(factored) -> None:
    class Writing(Gated):
        def forward(self, x: torch.Tensor, changed: float = 0.0) -> torch.Tensor:
            gate = self.gate(x)
            return self.down(gate * self.up(x.mul_(2)))

    layer, sums, x = Writing(), InputSums(), read()
    with torch.no_grad(), sums.summing("layers.0", layer, NAMES):
        layer(x.clone())
    for name in NAMES[:2]:
        sums.take_root(name)

    torch.testing.assert_close(factored[1], 4 * factored[0])


def test_input_sums_part_where_weights_read_one_tensor_only_at_times(factored) -> None:
    layer, sums, x = Gated(), InputSums(), read()
    with torch.no_grad(), sums.summing("layers.0", layer, NAMES):
        layer(x)
        layer(x, changed=2.0)
    for name in NAMES[:2]:
        sums.take_root(name)

    once = x[0].t() @ x[0]
    torch.testing.assert_close(factored[0], 2 * once)
    torch.testing.assert_close(factored[1], 6 * once)  # what gate had read by then, and 2 x


def test_input_sums_stay_apart_where_weights_read_one_tensor_later(factored) -> None:
    layer, sums, x = Gated(), InputSums(), read()
    with torch.no_grad(), sums.summing("layers.0", layer, NAMES):
        layer(x, changed=2.0)
        layer(x)
    for name in NAMES[:2]:
        sums.take_root(name)

    once = x[0].t() @ x[0]
    torch.testing.assert_close(factored[0], 2 * once)
    torch.testing.assert_close(factored[1], 5 * once)


def test_input_sums_are_those_of_the_named_weights_alone(factored) -> None:
    layer, sums = Gated(), InputSums()
    with torch.no_grad(), sums.summing("layers.0", layer, NAMES[:1]):
        layer(read())
    root = sums.take_root(NAMES[0])

    assert root is not None
    assert [sums.take_root(name) for name in NAMES[1:]] == [None, None]
    assert not sums._sums
    assert not sums._roots


def test_input_sums_of_a_layer_that_never_ran_are_none() -> None:
    assert InputSums().take_root(NAMES[0]) is None
