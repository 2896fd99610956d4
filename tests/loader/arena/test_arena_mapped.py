from __future__ import annotations

import pytest
import torch
from support.arena_process import memory_kib
from torch import nn

from pilotlight_loader import AttachPlan
from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.arena.fill import fill_from_file
from pilotlight_loader.arena.mapped import map_lease
from pilotlight_loader.errors import ArenaError, ArenaFullError
from pilotlight_loader.layout import round_up

NBYTES = 12_000_000
KEY = "checkpoint"


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 27).view(1, -1)).logits


@pytest.fixture
def large(bake_module):
    """12 MB in three tensors."""
    module = nn.Module()
    for number in range(3):
        module.register_buffer(f"t{number}", torch.full((NBYTES // 3,), number, dtype=torch.uint8))
    return bake_module(module)


@pytest.fixture
def filled(arena, large):
    fill_from_file(arena, KEY, large.path).close()
    return large


def test_mapped_lease_holds_what_was_baked(arena, any_model):
    tensors = dict(any_model.model.named_parameters()) | dict(any_model.model.named_buffers())
    with fill_from_file(arena, "k", any_model.baked.path) as lease:
        views = map_lease(lease, any_model.baked).tensors()

    assert list(views) == any_model.order
    assert all(torch.equal(view, tensors[name]) for name, view in views.items())


def test_mapped_lease_is_aligned(arena, llama):
    with fill_from_file(arena, "k", llama.baked.path) as lease:
        views = map_lease(lease, llama.baked).tensors()

    assert all(view.data_ptr() % 256 == 0 for view in views.values())


def test_mapped_lease_attaches_like_a_file(arena, any_model):
    skeleton = any_model.skeleton()
    plan = AttachPlan.compile(skeleton, any_model.baked)
    with fill_from_file(arena, "k", any_model.baked.path) as lease:
        plan.attach(map_lease(lease, any_model.baked))

    # Twice: longrope writes into its buffer.
    assert torch.equal(answer(skeleton), any_model.logits)
    assert torch.equal(answer(skeleton), any_model.logits)


def test_mapped_lease_of_another_size_is_refused(arena, filled):
    lease = arena.reserve("short", 10).commit()

    with pytest.raises(ArenaError, match="has 10 bytes"):
        map_lease(lease, filled)


def test_mapped_tensors_hold_the_lease(arena, filled):
    with arena.lease(KEY) as lease:
        mapped = map_lease(lease, filled)
    views = mapped.tensors()
    mapped.close()
    del mapped, lease
    with pytest.raises(ArenaFullError):
        arena.reserve("new", arena.nbytes)
    assert views["t2"].min() == views["t2"].max() == 2

    views.clear()

    assert arena.reserve("new", arena.nbytes) is not None


def test_mapped_lease_is_in_memory_already(arena, filled):
    with arena.lease(KEY) as lease, map_lease(lease, filled) as mapped:
        assert mapped.resident_bytes() == filled.nbytes


def test_write_in_one_worker_is_not_seen_by_another(arena, filled, other):
    one, two = other(), other()
    one.ask("attach", KEY, filled.path)
    one.ask("fill_tensor", "t1", 99)
    two.ask("attach", KEY, filled.path)

    assert one.ask("largest", "t1") == 99
    assert two.ask("largest", "t1") == 1
    with arena.lease(KEY) as lease:
        assert bytes(lease.memory) == filled.path.read_bytes()


def test_attaching_copies_nothing(filled, other):
    process = other()
    process.ask("attach", KEY, filled.path)

    assert process.ask("largest", "t2") == 2
    assert process.ask("memory_kib", "Anonymous") == 0


def test_two_workers_count_the_memory_once(arena, filled, other):
    arena.close()  # this process maps it too, and would take its share
    one, two = other(), other()
    one.ask("attach", KEY, filled.path)
    alone_kib = one.ask("memory_kib", "Pss")
    two.ask("attach", KEY, filled.path)
    kib = [process.ask("memory_kib", "Pss") for process in (one, two)]

    # In huge pages the rest of the last one counts, too.
    extent_kib = round_up(filled.nbytes, EXTENT_ALIGN) // 1024
    assert 0.98 * filled.nbytes / 1024 < alone_kib <= extent_kib
    assert sum(kib) == pytest.approx(alone_kib, rel=0.02)
    assert min(kib) == pytest.approx(max(kib), rel=0.02)


def test_detaching_gives_the_memory_back(filled, other):
    process = other()
    process.ask("attach", KEY, filled.path)
    attached_kib = process.ask("memory_kib", "Rss")
    process.ask("detach")

    assert attached_kib * 1024 >= filled.nbytes
    assert process.ask("memory_kib", "Rss") == 0


def test_evicted_memory_is_reused_by_the_next(arena, filled):
    before_kib = memory_kib(arena.path, "Rss")
    with arena.reserve("new", arena.nbytes // EXTENT_ALIGN * EXTENT_ALIGN) as filling:
        filling.tensor().fill_(1)

    assert memory_kib(arena.path, "Rss") == before_kib == arena.nbytes // 1024
