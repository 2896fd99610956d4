"""Streaming gives the text that decoding the whole answer gives, and never half a character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from pilotlight_platform.engine.detokenizer import Detokenizer
from pilotlight_platform.engine.vocabulary import Vocabulary

SAMPLES = ["plain words", "naïve café", "東京と京都", "👩‍🚀🎉 done", "é", " leading", "tab\tline\n"]


@pytest.fixture(scope="module")
def sentencepiece():
    """Llama 2's kind: pieces with '▁' for a space, and bytes for what has no piece."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁hello", "▁world", "lo", "é", "a", "b"]
    backend = Tokenizer(
        models.BPE(
            vocab={piece: token for token, piece in enumerate(pieces)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def stream(tokenizer, tokens, prompt=()):
    detokenizer = Detokenizer(tokenizer, prompt)
    return [*(detokenizer.feed(token) for token in tokens), detokenizer.flush()]


def byte_tokens(tokenizer, data):
    """Each byte as a token of its own: the hardest way to write a text."""
    vocabulary = Vocabulary(tokenizer)
    of_byte = {vocabulary.token_bytes(token): token for token in range(len(tokenizer))}
    return [of_byte[bytes([byte])] for byte in data]


@pytest.mark.parametrize("text", SAMPLES)
def test_streamed_pieces_join_to_the_text(tokenizer, text):
    pieces = stream(tokenizer, tokenizer(text)["input_ids"])

    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)


@pytest.mark.parametrize("text", SAMPLES)
def test_single_bytes_are_never_shown_as_half_a_character(tokenizer, text):
    pieces = stream(tokenizer, byte_tokens(tokenizer, text.encode()))

    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)


@given(text=st.text(max_size=12))
def test_any_text_survives_streaming(tokenizer, text):
    assert "".join(stream(tokenizer, byte_tokens(tokenizer, text.encode()))) == text


@given(data=st.binary(max_size=20), text=st.text(min_size=1, max_size=4))
def test_invalid_bytes_do_not_swallow_the_text_behind_them(tokenizer, data, text):
    """Whatever nonsense came before, valid text shows, at the latest when the answer ends."""
    tokens = byte_tokens(tokenizer, data + b" " + text.encode())

    assert "".join(stream(tokenizer, tokens)).endswith(text)


def test_invalid_bytes_are_held_back_for_a_few_tokens_only(tokenizer):
    [stray] = byte_tokens(tokenizer, b"\x9f")
    detokenizer = Detokenizer(tokenizer)

    pieces = [detokenizer.feed(stray) for _ in range(50)]

    assert sum(map(len, pieces)) >= 46
    assert len(detokenizer._pending) <= 4


def test_unfinished_character_is_left_out_at_the_end(tokenizer):
    tokens = byte_tokens(tokenizer, "ab🎉".encode()[:-1])

    assert "".join(stream(tokenizer, tokens)) == "ab"


def test_special_tokens_are_not_shown(tokenizer):
    tokens = [0, *tokenizer("fox")["input_ids"], 1, *tokenizer(" dog")["input_ids"], 1]

    assert "".join(stream(tokenizer, tokens)) == "fox dog"


def test_ids_beyond_the_tokenizer_are_not_shown(tokenizer):
    tokens = tokenizer("fox")["input_ids"]

    assert "".join(stream(tokenizer, [*tokens, 380, *tokens])) == "foxfox"


def test_sentencepiece_keeps_the_space_behind_the_prompt(sentencepiece):
    hello, world = sentencepiece.convert_tokens_to_ids(["▁hello", "▁world"])

    assert "".join(stream(sentencepiece, [world, hello], prompt=[1, hello])) == " world hello"
    assert "".join(stream(sentencepiece, [world, hello], prompt=[1])) == "world hello"


def test_sentencepiece_bytes_join_to_characters(sentencepiece):
    tokens = [3 + byte for byte in "é🎉".encode()]

    pieces = stream(sentencepiece, tokens, prompt=[sentencepiece.convert_tokens_to_ids("a")])

    assert [piece for piece in pieces if piece] == ["é", "🎉"]


def test_prompt_that_ends_inside_a_character_does_not_hurt(tokenizer):
    first, *rest = byte_tokens(tokenizer, "🎉".encode())

    pieces = stream(tokenizer, [*rest, *tokenizer("fox")["input_ids"]], prompt=[first])

    assert "".join(pieces).endswith("fox")


def test_vocabulary_knows_exact_bytes(tokenizer, sentencepiece):
    byte_level, pieces = Vocabulary(tokenizer), Vocabulary(sentencepiece)

    for text in SAMPLES:
        tokens = tokenizer(text)["input_ids"]
        assert b"".join(map(byte_level.token_bytes, tokens)) == text.encode()
    assert byte_level.token_bytes(1) == b"<eos>"
    assert byte_level.token_bytes(380) == b""
    assert pieces.token_bytes(3 + 0xF0) == b"\xf0"
    assert pieces.text(3 + 0xF0) == "�"
    assert pieces.text(sentencepiece.convert_tokens_to_ids("▁hello")) == " hello"
