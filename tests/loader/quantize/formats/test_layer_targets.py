from __future__ import annotations

import pytest

from pilotlight_loader.quantize.formats.layer_targets import PatternError, matcher

LAYER = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("targets", "closeness"),
    [
        ([LAYER], 0),
        (["Linear", "re:.*q_proj", LAYER], 0),
        (["Linear", "re:.*q_proj"], 1),
        (["Linear"], 2),
        (["Embedding"], None),
        (["q_proj"], None),
        (["re:q_proj"], None),  # re.match: from the beginning
        ([r"re:model\.layers\.\d+\.(self_attn|mlp)\.[qkv]_proj$"], 1),
        ([], None),
    ],
)
def test_matcher_tells_how_closely_a_layer_is_named(targets, closeness):
    assert matcher(targets)(LAYER) == closeness


def test_matcher_tells_embeddings_by_their_name():
    assert matcher(["Embedding"])("model.embed_tokens") == 2
    assert matcher(["Linear"])("model.embed_tokens") is None


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*$", "(a*){20}", "(?:x+x+)+y", ".*.*.*.*.*=", "(", "a" * 600]
)
def test_matcher_refuses_patterns_that_might_never_end(pattern):
    with pytest.raises(PatternError):
        matcher([f"re:{pattern}"])
