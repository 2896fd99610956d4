"""Tiny random models with a real tokenizer, baked once per run, and an engine to run them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.quantizing import Quantizing
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.source import bake_source
from pilotlight_platform.engine.ticket import Ticket
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.schemas.generation import (
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
    TokenLogprob,
)

TIMEOUT_S = 60
CONTEXT = 128
VOCAB = 384  # the tokenizer has fewer: rows beyond it are padding, as in real checkpoints
TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "a pilot light stays on so that the fire starts at once",
    "naïve café, 東京 and 京都, 👩‍🚀🎉 done",
]

_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_SMALL, tie_word_embeddings=False),
    "qwen2": lambda: Qwen2Config(**_SMALL, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**_SMALL, head_dim=16, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=CONTEXT,
        vocab_size=VOCAB,
        bos_token_id=0,
        eos_token_id=1,
    ),
    "mpt": lambda: MptConfig(
        d_model=64,
        n_heads=4,
        n_layers=3,
        max_seq_len=CONTEXT,
        vocab_size=VOCAB,
        bos_token_id=0,
        eos_token_id=1,
    ),
    "mistral": lambda: MistralConfig(**_SMALL, sliding_window=12, tie_word_embeddings=False),
    "gemma2": lambda: Gemma2Config(**_SMALL, head_dim=16, sliding_window=12),
}
BATCHED = ["llama", "qwen2", "qwen3", "gpt2", "mpt"]
ALONE = ["mistral", "gemma2"]  # sliding windows: rows do not share a cache


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges: most characters beyond ASCII take several tokens."""
    return make_tokenizer()


def make_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")


def write_source(directory: Path, config: Any, *, dtype: torch.dtype = torch.float32) -> Path:
    """A Hugging Face checkpoint with random weights, far enough apart that argmax is decided."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=1)
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def no_report(phase: str, message: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The source checkpoint of an architecture, written on first use."""
    root = tmp_path_factory.mktemp("sources")

    def source(name: str) -> Path:
        directory = root / name
        return directory if directory.exists() else write_source(directory, CONFIGS[name]())

    return source


@pytest.fixture(scope="session")
def make_source() -> Callable[..., Path]:
    """Write the source checkpoint of an architecture, with changes to its config."""

    def make(name: str, directory: Path, **changes: Any) -> Path:
        config = CONFIGS[name]()
        config.update(changes)
        return write_source(directory, config)

    return make


@pytest.fixture(scope="session")
def baked(
    sources: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The baked checkpoint of an architecture."""
    root = tmp_path_factory.mktemp("baked")

    def bake(name: str) -> Path:
        directory = root / name
        if not directory.exists():
            directory.mkdir()
            bake_source(sources(name), directory, dtype="auto", report=no_report)
        return directory

    return bake


@pytest.fixture(scope="session")
def reference(sources: Callable[[str], Path]) -> Callable[[str], Any]:
    """The source model as transformers runs it."""
    return lambda name: AutoModelForCausalLM.from_pretrained(sources(name)).eval()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(threads=1, max_batch=4) as running:
        yield running


@pytest.fixture
def attach(baked: Callable[[str], Path]) -> Iterator[Callable[[str], Replica]]:
    """Attach replicas that are detached at the end of the test."""
    replicas: list[Replica] = []

    def attach(name: str) -> Replica:
        replicas.append(Replica.attach(Skeleton.load(baked(name))))
        return replicas[-1]

    yield attach
    for replica in replicas:
        replica.detach()


@dataclass
class Answer:
    """Collects what a sink gets."""

    items: queue.SimpleQueue[GenerationChunk | PlatformError] = field(
        default_factory=queue.SimpleQueue
    )
    chunks: list[GenerationChunk] = field(default_factory=list)
    ticket: Ticket | None = None

    def next(self) -> GenerationChunk:
        item = self.items.get(timeout=TIMEOUT_S)
        if isinstance(item, PlatformError):
            raise item
        self.chunks.append(item)
        return item

    def finish(self) -> Answer:
        while not self.chunks or self.chunks[-1].finish_reason is None:
            self.next()
        return self

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [logprob for chunk in self.chunks for logprob in chunk.logprobs]

    @property
    def tokens(self) -> list[int]:
        return [logprob.token_id for logprob in self.logprobs]

    @property
    def count(self) -> int:
        return sum(chunk.tokens for chunk in self.chunks)

    @property
    def finish_reason(self) -> str | None:
        return self.chunks[-1].finish_reason


def make_request(prompt: Any, **sampling: Any) -> GenerationRequest:
    """Greedy, and with logprobs, because they carry the token ids."""
    params = SamplingParams(**{"temperature": 0.0, "max_tokens": 8, "logprobs": 0, **sampling})
    if isinstance(prompt, str):
        return GenerationRequest("r", "rev", params, prompt=prompt)
    if prompt and isinstance(prompt[0], dict):
        return GenerationRequest("r", "rev", params, messages=tuple(prompt))
    return GenerationRequest("r", "rev", params, prompt_tokens=tuple(prompt))


@pytest.fixture
def submit(engine: Engine) -> Callable[..., Answer]:
    """Submit a prompt (text, token ids or messages) and collect its answer."""

    def submit(
        replica: Replica,
        prompt: Any,
        *,
        to: Engine = engine,
        sink: Callable[[Any], None] | None = None,
        **sampling: Any,
    ) -> Answer:
        answer = Answer()
        request = make_request(prompt, **sampling)
        answer.ticket = to.submit(replica, request, sink or answer.items.put)
        return answer

    return submit


@pytest.fixture(scope="session")
def quantized(make_source, tmp_path_factory):
    """The directory of a Llama baked in one kind, and of its source."""
    root = tmp_path_factory.mktemp("quantized")
    origin = make_source(
        "llama", root / "source", tie_word_embeddings=True, hidden_size=128, intermediate_size=256
    )
    made: dict[str, Path] = {}

    def bake(kind: str) -> Path:
        if kind not in made:
            made[kind] = root / kind
            made[kind].mkdir()
            bake_source(
                origin,
                made[kind],
                dtype="bfloat16",
                report=lambda *_: None,
                quantizing=Quantizing(kind, rounding="nearest"),
            )
        return made[kind]

    bake.source = origin
    return bake
