"""Attaching: the answer is that of the source model, bit by bit."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from pilotlight_loader import AttachMismatchError, AttachPlan

PROMPT = torch.arange(3, 27).view(1, -1)


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(PROMPT).logits


def is_weightless(module: nn.Module) -> bool:
    return all(t.is_meta for t in itertools.chain(module.parameters(), module.buffers()))


def on_meta(build):
    with torch.device("meta"):
        return build()


def test_attach_answers_like_the_source(any_model):
    skeleton = any_model.skeleton()

    with any_model.baked.map() as mapped:
        AttachPlan.compile(skeleton, any_model.baked).attach(mapped)

    assert torch.equal(answer(skeleton), any_model.logits)


def test_attach_again_after_detach_answers_the_same(any_model):
    skeleton = any_model.skeleton()
    plan = AttachPlan.compile(skeleton, any_model.baked)
    with any_model.baked.map() as mapped:
        plan.attach(mapped)
        answer(skeleton)
        plan.detach()
        plan.attach(mapped)

    assert torch.equal(answer(skeleton), any_model.logits)


def test_detach_leaves_a_weightless_skeleton(any_model):
    skeleton = any_model.skeleton()
    plan = AttachPlan.compile(skeleton, any_model.baked)
    with any_model.baked.map() as mapped:
        plan.attach(mapped)

    plan.detach()

    assert is_weightless(skeleton)


def test_attach_keeps_tied_weights_one_parameter(tied_llama):
    skeleton = tied_llama.skeleton()
    with tied_llama.baked.map() as mapped:
        AttachPlan.compile(skeleton, tied_llama.baked).attach(mapped)

    assert skeleton.lm_head.weight is skeleton.model.embed_tokens.weight


def test_attach_takes_no_gradients(llama):
    skeleton = llama.skeleton()
    with llama.baked.map() as mapped:
        AttachPlan.compile(skeleton, llama.baked).attach(mapped)

    assert not any(parameter.requires_grad for parameter in skeleton.parameters())


def test_attach_reports_its_bytes(llama):
    with llama.baked.map() as mapped:
        report = AttachPlan.compile(llama.skeleton(), llama.baked).attach(mapped)

    assert report.nbytes == sum(tensor.nbytes for tensor in llama.baked.tensors.values())
    assert report.start_s <= report.end_s


def test_attach_of_another_checkpoint_leaves_the_skeleton_weightless(llama, tied_llama):
    skeleton = llama.skeleton()
    plan = AttachPlan.compile(skeleton, llama.baked)

    with tied_llama.baked.map() as mapped, pytest.raises(AttachMismatchError, match="plan is for"):
        plan.attach(mapped)

    assert is_weightless(skeleton)


def test_attach_that_fails_midway_leaves_the_skeleton_weightless(llama, monkeypatch):
    skeleton = llama.skeleton()
    plan = AttachPlan.compile(skeleton, llama.baked)
    with llama.baked.map() as mapped:
        tensors = mapped.tensors()
        del tensors["model.rotary_emb.inv_freq"]  # a buffer: found missing among the assignments
        monkeypatch.setattr(mapped, "tensors", lambda: tensors)

        with pytest.raises(KeyError):
            plan.attach(mapped)

    assert is_weightless(skeleton)


def test_attach_to_a_closed_mapping_is_refused(llama):
    mapped = llama.baked.map()
    mapped.close()

    with pytest.raises(ValueError, match="closed"):
        AttachPlan.compile(llama.skeleton(), llama.baked).attach(mapped)


def test_attach_re_points_a_plain_attribute_that_is_a_buffer(bake_module):
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(4.0), persistent=False)
            self.__dict__["kept"] = self.table  # the same object, not a registration

    skeleton = on_meta(Remembering)
    baked = bake_module(Remembering())
    plan = AttachPlan.compile(skeleton, baked)

    with baked.map() as mapped:
        plan.attach(mapped)

    assert skeleton.kept is skeleton.table
    assert skeleton.kept.tolist() == [0, 1, 2, 3]
    plan.detach()
    assert skeleton.kept.is_meta


def test_attach_shares_one_mapping_among_skeletons(llama):
    first, second = llama.skeleton(), llama.skeleton()
    with llama.baked.map() as mapped:
        AttachPlan.compile(first, llama.baked).attach(mapped)
        AttachPlan.compile(second, llama.baked).attach(mapped)

    assert first.lm_head.weight.data_ptr() == second.lm_head.weight.data_ptr()


@pytest.mark.parametrize("build", [nn.LSTM, nn.GRU, nn.RNN])
def test_attach_fills_the_flat_weights_of_a_recurrent_layer(bake_module, build):
    torch.manual_seed(0)
    module, x = build(4, 8).eval(), torch.ones(3, 1, 4)
    baked = bake_module(module)
    skeleton = on_meta(lambda: build(4, 8).eval())
    weightless = skeleton._flat_weights
    plan = AttachPlan.compile(skeleton, baked)

    for _ in range(2):  # a worker attaches again after each time that it had no requests
        with baked.map() as mapped, torch.no_grad():
            plan.attach(mapped)
            answer = skeleton(x)[0].clone()
            plan.detach()
        # Without gradients torch takes another kernel, which rounds otherwise.
        assert torch.allclose(answer, module(x)[0], atol=1e-6)
        assert skeleton._flat_weights is weightless
        assert is_weightless(skeleton)


def test_attach_fills_a_container_of_owned_tensors(bake_module):
    class Listing(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.__dict__["mine"] = {"both": (self.weight, [self.bias]), "scale": 3}

    module = Listing()
    skeleton = on_meta(Listing)
    with (baked := bake_module(module)).map() as mapped:
        plan = AttachPlan.compile(skeleton, baked)
        plan.attach(mapped)

        assert skeleton.mine["both"][0] is skeleton.weight
        assert skeleton.mine["both"][1][0] is skeleton.bias
        assert skeleton.mine["scale"] == 3
        plan.detach()


@pytest.mark.parametrize("hide", [lambda t: t, lambda t: [t], lambda t: {"a": (t,)}])
def test_compile_refuses_a_tensor_that_nothing_would_fill(bake_module, hide):
    class Hiding(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.__dict__["hidden"] = hide(torch.ones(2))

    baked = bake_module(Hiding())

    with pytest.raises(AttachMismatchError, match="hidden is neither parameter nor buffer"):
        AttachPlan.compile(on_meta(Hiding), baked)


def test_compile_names_what_is_missing_and_unexpected(bake_module):
    baked = bake_module(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False)))
    skeleton = on_meta(lambda: nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2)))

    with pytest.raises(AttachMismatchError) as caught:
        AttachPlan.compile(skeleton, baked)

    assert caught.value.problems == (
        "1.bias is missing in the checkpoint",
        "0.bias is not in the module",
    )


def test_compile_refuses_another_shape(bake_module):
    baked = bake_module(nn.Linear(2, 3, bias=False))

    with pytest.raises(AttachMismatchError, match=r"weight is \[3, 2\], the module wants \[2, 3\]"):
        AttachPlan.compile(on_meta(lambda: nn.Linear(3, 2, bias=False)), baked)


def test_compile_refuses_another_dtype(bake_module):
    baked = bake_module(nn.Linear(2, 2, bias=False).half())

    with pytest.raises(AttachMismatchError, match=r"torch\.float16, the module wants torch\.flo"):
        AttachPlan.compile(on_meta(lambda: nn.Linear(2, 2, bias=False)), baked)


def two_layers(tied: bool) -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    if tied:
        module[1].weight = module[0].weight
    return module


def test_compile_refuses_a_tie_that_the_checkpoint_lacks(bake_module):
    baked = bake_module(two_layers(tied=False))

    with pytest.raises(AttachMismatchError, match=r"1\.weight is tied to 0\.weight in the module"):
        AttachPlan.compile(on_meta(lambda: two_layers(tied=True)), baked)


def test_compile_takes_a_tie_that_the_module_lacks(bake_module):
    source = two_layers(tied=True)
    baked = bake_module(source)
    skeleton = on_meta(lambda: two_layers(tied=False))

    with baked.map() as mapped:
        AttachPlan.compile(skeleton, baked).attach(mapped)

    assert torch.equal(skeleton[1].weight, source[0].weight)


def test_mismatch_shows_a_few_problems_and_counts_the_rest(bake_module):
    baked = bake_module(nn.Sequential(*(nn.Linear(1, 1) for _ in range(10))))

    with pytest.raises(AttachMismatchError, match=r"; and 12 more$"):
        AttachPlan.compile(nn.Module(), baked)
