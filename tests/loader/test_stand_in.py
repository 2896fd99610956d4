"""Stand-ins have every shape and dtype, and hold one tensor of each."""

from pathlib import Path

import torch

from pilotlight_loader import StandInCheckpoint, bake


class Twins(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4, bias=False)
        self.second = torch.nn.Linear(4, 4, bias=False)
        self.third = torch.nn.Linear(4, 8, bias=False, dtype=torch.bfloat16)


def test_stand_in_shares_one_tensor_per_shape_and_dtype(tmp_path: Path) -> None:
    checkpoint = bake(Twins(), tmp_path / "m.safetensors", order=[], metadata={})
    tensors = StandInCheckpoint(checkpoint).tensors()

    assert tensors["first.weight"] is tensors["second.weight"]
    assert (tensors["third.weight"].shape, tensors["third.weight"].dtype) == (
        (8, 4),
        torch.bfloat16,
    )
