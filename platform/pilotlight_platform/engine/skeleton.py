"""A model's modules and tokenizer, without weights: all that is done before the cold path."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pilotlight_loader import AttachPlan, BakedCheckpoint, wide_product
from pilotlight_loader.dtypes import torch_dtype
from pilotlight_loader.hastened import hasten
from pilotlight_loader.row_product import RowLinear
from pilotlight_platform.engine.attention import attend_by_rows
from pilotlight_platform.engine.cache import CacheGrowth
from pilotlight_platform.engine.packing import WEIGHTS_FILE, open_packed
from pilotlight_platform.engine.vocabulary import Vocabulary
from pilotlight_platform.errors import AttachError

logger = logging.getLogger(__name__)

# Any of them means that the directory has a tokenizer.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)

# transformers patches torch globally while it builds a model: one at a time.
_BUILDING = threading.Lock()

_CONTEXT_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "n_ctx",
)

# Their forward takes no positions: attention depends on the distance of keys alone (ALiBi).
_DISTANCE_ONLY = frozenset({"mpt", "bloom"})

# Rotary tables that depend on the longest row, so that a neighbour would change the answer.
_LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


@dataclass(slots=True, weakref_slot=True, eq=False)
class Skeleton:
    """Built once per revision and worker. Its module holds weights while a replica is attached."""

    directory: Path
    module: Any  # a transformers causal LM
    config: Any
    tokenizer: Any | None
    vocabulary: Vocabulary | None
    eos_ids: frozenset[int]
    bos_id: int | None
    vocab_size: int
    context_length: int | None  # None: no limit is known
    baked: BakedCheckpoint  # the file for this worker's kernel, or the one for any
    plan: AttachPlan
    takes_position_ids: bool
    takes_logits_to_keep: bool
    batchable: bool  # left padding another row does not change this one's answer
    attached: bool = False  # a replica holds the module
    cache_growth: CacheGrowth | None = None  # seen in the first prefill of all

    @classmethod
    def load(cls, directory: Path, *, packed: bool = True) -> Skeleton:
        """Build the skeleton of the baked checkpoint in *directory*; reads no weights.

        With *packed* it takes the file for this CPU's kernel, where there is one.

        Raises:
            AttachError: if it cannot be built, naming the directory and the cause.
        """
        try:
            with _BUILDING:
                return _load(directory, packed)
        except Exception as error:  # transformers raises all kinds; the worker needs to know one
            raise AttachError(
                f"cannot build the model in {directory}: {type(error).__name__}: {error}"
            ) from error


def _load(directory: Path, packed: bool) -> Skeleton:
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    plain = BakedCheckpoint.open(directory / WEIGHTS_FILE)
    module = _build(config, plain)
    attend_by_rows(module)
    _rehearse(module)
    straighten_output_input(module)
    baked = (
        open_packed(directory, module, plain)
        if packed or plain.quantized or plain.sparse
        else plain
    )
    hasten_products(module)
    tokenizer = load_tokenizer(directory)
    generation = _generation_config(directory, config)
    parameters = inspect.signature(module.forward).parameters
    text_config = config.get_text_config(decoder=True)
    takes_position_ids = "position_ids" in parameters
    return Skeleton(
        directory=directory,
        module=module,
        config=config,
        tokenizer=tokenizer,
        vocabulary=None if tokenizer is None else Vocabulary(tokenizer),
        eos_ids=_eos_ids(generation, tokenizer),
        bos_id=_bos_id(generation, tokenizer),
        vocab_size=module.get_input_embeddings().num_embeddings,
        context_length=context_length(config),
        baked=baked,
        plan=AttachPlan.compile(module, baked),
        takes_position_ids=takes_position_ids,
        takes_logits_to_keep="logits_to_keep" in parameters,
        batchable=_LENGTH_DEPENDENT_ROPE.isdisjoint(_rope_types(text_config))
        and (takes_position_ids or config.model_type in _DISTANCE_ONLY),
    )


def _build(config: Any, baked: BakedCheckpoint) -> Any:
    """The module on the meta device, each tensor with the type that it has in *baked*.

    Built in float32 whatever the model's type: transformers would switch torch's default dtype,
    which is global, under the feet of the compute thread. And the file knows better than the
    config, as some modules keep float32.
    """
    dtype = config.dtype
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
    config.dtype = module.config.dtype = dtype
    recast: dict[int, torch.Tensor] = {}  # by the tensor replaced, so that ties stay ties
    for prefix, owner in module.named_modules():
        for place in (owner._parameters, owner._buffers):
            for key, tensor in place.items():
                name = f"{prefix}.{key}" if prefix else key
                info = baked.tensors.get(baked.ties.get(name, name))
                if tensor is None or info is None:
                    continue  # a tensor that is not in the file is for the attach plan to name
                stored = torch_dtype(info.dtype, info.name, baked.path)
                if stored != tensor.dtype:
                    place[key] = recast.setdefault(id(tensor), _with_dtype(tensor, stored))
    return module.eval().requires_grad_(False)


def _with_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    data = torch.empty_like(tensor, dtype=dtype)
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    return torch.nn.Parameter(data, requires_grad=False) if is_parameter else data


def _rehearse(module: Any) -> None:
    """Run the module once on the meta device: all of its Python, none of its arithmetic.

    transformers imports and caches things in a model's first forward. Measured for the first
    prefill in a process (0.75 GB Llama, 16 tokens, two cores): 123 ms, and 90 ms rehearsed.
    """
    try:
        with torch.no_grad():
            module(input_ids=torch.zeros(1, 2, dtype=torch.long, device="meta"), use_cache=True)
    except Exception:  # some models look at values, which meta tensors do not have: nothing lost
        logger.debug("rehearsal_failed model=%s", type(module).__name__, exc_info=True)


def straighten_output_input(module: Any) -> None:
    """Give the output embedding an input with plain strides, by a forward pre-hook.

    transformers slices ``hidden[:, -1:, :]``, whose strides are still those of the whole prompt.
    With a weight that needs no gradient torch.matmul then does not fold the batch dimension but
    calls bmm on an expanded *copy* of the weight. Measured for [1, 1, 1024] x 32000 in bf16 on two
    cores (torch 2.13): 120 ms, and 4 ms with this hook. ``contiguous()`` would not do, because
    torch ignores the strides of a dimension of size one.
    """
    output = module.get_output_embeddings()
    if output is not None:
        output.register_forward_pre_hook(_straighten)


def _straighten(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden, *rest = args
    return (hidden.clone(memory_format=torch.contiguous_format), *rest)


def hasten_products(module: Any) -> None:
    """Let layers compute as this CPU does it soonest; they stay the same objects.

    Of plain linear ones those are, with bf16 kernels, output layers that are tied to the
    embeddings, and so never packed; without, all of them.
    """
    hasten(module)
    if wide_product.lacks_kernels():
        return
    output = module.get_output_embeddings()
    if type(output) is torch.nn.Linear and output.weight is module.get_input_embeddings().weight:
        output.__class__ = RowLinear


def load_tokenizer(directory: Path) -> Any | None:
    """The tokenizer in *directory*, or None if it has none."""
    if not any((directory / name).exists() for name in TOKENIZER_FILES):
        return None
    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def context_length(config: Any) -> int | None:
    """Tokens that prompt and answer may have together, under whatever name the model gives it."""
    text_config = config.get_text_config(decoder=True)
    for field in _CONTEXT_FIELDS:
        value = getattr(text_config, field, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _generation_config(directory: Path, config: Any) -> Any:
    if (directory / "generation_config.json").exists():
        return GenerationConfig.from_pretrained(directory, local_files_only=True)
    return GenerationConfig.from_model_config(config)


def _eos_ids(generation: Any, tokenizer: Any | None) -> frozenset[int]:
    eos = generation.eos_token_id
    if eos is None and tokenizer is not None:
        eos = tokenizer.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset(eos) if isinstance(eos, list) else frozenset({int(eos)})


def _bos_id(generation: Any, tokenizer: Any | None) -> int | None:
    bos = None if tokenizer is None else tokenizer.bos_token_id
    bos = generation.bos_token_id if bos is None else bos
    return None if bos is None else int(bos)


def _rope_types(config: Any) -> Iterator[str]:
    """Kinds of rotary tables in the model; some models have one for each type of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *rope.values()):
        if isinstance(parameters, dict) and "rope_type" in parameters:
            yield parameters["rope_type"]
