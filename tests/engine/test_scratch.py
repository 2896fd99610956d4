import os
from pathlib import Path

import pytest
import torch

from pilotlight_loader import DiskFullError
from pilotlight_platform.engine.scratch import in_scratch


def make(count: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    made = {f"w{i}": torch.randn(7, 33 + i, generator=generator) for i in range(count)}
    return made | {"half": made["w0"].bfloat16(), "turned": made["w1"].T, "one": torch.ones(1)}


def test_scratch_gives_the_same_tensors(tmp_path: Path) -> None:
    tensors = make()

    found = dict(in_scratch(tensors.items(), tmp_path))

    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_scratch_leaves_no_file(tmp_path: Path) -> None:
    found = dict(in_scratch(make().items(), tmp_path))

    assert list(tmp_path.iterdir()) == []
    assert torch.equal(found["one"], torch.ones(1))


def test_scratch_keeps_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    found = [dict(in_scratch(make().items(), tmp_path)) for _ in range(5)]

    assert len(os.listdir("/proc/self/fd")) == before
    assert torch.equal(found[4]["w2"], make()["w2"])


def test_scratch_of_nothing_is_nothing(tmp_path: Path) -> None:
    assert list(in_scratch([], tmp_path)) == []


def test_scratch_keeps_its_tensors_out_of_anonymous_memory(tmp_path: Path) -> None:
    size = 64 << 20

    def anonymous_bytes() -> int:
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) << 10

    before = anonymous_bytes()
    found = dict(in_scratch(((str(i), torch.ones(size // 4)) for i in range(4)), tmp_path))
    total = sum(float(tensor.sum()) for tensor in found.values())

    assert total == size
    assert anonymous_bytes() - before < 2 * size


def test_scratch_on_a_full_disk_names_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)

    with pytest.raises(DiskFullError, match="4 bytes are needed"):
        list(in_scratch([("one", torch.ones(1))], tmp_path))
    assert list(tmp_path.iterdir()) == []
