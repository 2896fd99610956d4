"""Sample models, never downloaded: one that was trained and comes with the package, others random.

Random weights are written by name, without building the model, so that the large one takes seconds.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.sample_tokenizer import BOS, CHAT_TEMPLATE, EOS, train_tokenizer

if TYPE_CHECKING:
    import torch

RandomSize = Literal["tiny", "bench", "load"]
SampleSize = Literal["trained", RandomSize]

TRAINED = Path(__file__).with_name("sample_model")  # a checkpoint; its README.md tells its making

_MARKER = "pilotlight-sample.json"
_FORMAT = 2  # raise it when the same arguments give other files


@dataclass(frozen=True, slots=True)
class SampleShape:
    """What a random sample is made of."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    dtype: Literal["float32", "bfloat16"]
    tied: bool  # the output layer is the embedding
    seed: int = 7


SHAPES: dict[RandomSize, SampleShape] = {
    "tiny": SampleShape(4, 128, 344, 4, 4, 1024, 2048, "float32", tied=False),  # 4 MB
    "bench": SampleShape(24, 1024, 2816, 16, 8, 32000, 4096, "bfloat16", tied=True),  # 0.63 GB
    "load": SampleShape(20, 2048, 5632, 16, 8, 32000, 4096, "bfloat16", tied=True),  # 2 GB
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample model on disk."""

    path: Path
    size: SampleSize
    nbytes: int
    reused: bool


def write_sample(directory: Path, size: SampleSize) -> Sample:
    """Write the sample to *directory*, whole or not at all; an identical one is reused.

    Raises CliError if *directory* holds something else or cannot be written.
    """
    directory = directory.expanduser().absolute()
    reused = _is_sample(directory, size)
    try:
        if not reused:
            _check_free(directory)
            _write_whole(directory, size)
        nbytes = (directory / "model.safetensors").stat().st_size
    except OSError as error:
        raise CliError(
            f"{directory} cannot be written: {error.strerror or error}", ExitCode.BAD_INPUT
        ) from error
    return Sample(directory, size, nbytes, reused)


def _is_sample(directory: Path, size: SampleSize) -> bool:
    try:
        marker = json.loads((directory / _MARKER).read_text())
        sizes = {name: (directory / name).stat().st_size for name in marker["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(marker == _marker(size, sizes))


def _marker(size: SampleSize, files: dict[str, int]) -> dict[str, Any]:
    if size == "trained":
        weights = (TRAINED / "model.safetensors").read_bytes()
        made_of: dict[str, Any] = {"weights": sha256(weights).hexdigest()}
    else:
        made_of = asdict(SHAPES[size])
    return {"format": _FORMAT, "size": size, "shape": made_of, "files": files}


def _check_free(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        return
    if directory.exists() or directory.is_symlink():
        raise CliError(
            f"{directory} exists and is not this sample",
            ExitCode.BAD_INPUT,
            "name another directory, or remove it",
        )


def _write_whole(directory: Path, size: SampleSize) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{directory.name}."
    part = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=directory.parent))
    try:
        if size == "trained":
            shutil.copytree(TRAINED, part, dirs_exist_ok=True, copy_function=shutil.copyfile)
        else:
            write_shape(part, SHAPES[size])
        files = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
        (part / _MARKER).write_text(json.dumps(_marker(size, files)))
        part.chmod(0o755)
        part.rename(directory)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_shape(part: Path, shape: SampleShape) -> None:
    """Write the checkpoint of *shape* into the directory *part*."""
    # Both import torch, which takes seconds.
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    train_tokenizer(shape.vocab, shape.seed).save(str(part / "tokenizer.json"))
    files = {
        "config.json": _config(shape),
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 1},
        "tokenizer_config.json": _tokenizer_config(shape),
    }
    for name, value in files.items():
        (part / name).write_text(json.dumps(value, indent=2) + "\n")
    generator = torch.Generator().manual_seed(shape.seed)
    tensors = dict(_tensors(shape, generator))
    weights = part / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # save_file makes it private


def _tensors(shape: SampleShape, generator: torch.Generator) -> Iterator[tuple[str, torch.Tensor]]:
    import torch  # noqa: PLC0415 - loaded by the caller already

    dtype = getattr(torch, shape.dtype)

    def weight(rows: int, columns: int) -> torch.Tensor:
        # Drawn in the final type: float32 first would double the memory and the time.
        return torch.empty(rows, columns, dtype=dtype).normal_(0, 0.02, generator=generator)

    def norm() -> torch.Tensor:
        return torch.ones(shape.hidden, dtype=dtype)

    yield "model.embed_tokens.weight", weight(shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        key_rows = shape.kv_heads * (shape.hidden // shape.heads)
        for name, rows in (
            ("q_proj", shape.hidden),
            ("k_proj", key_rows),
            ("v_proj", key_rows),
            ("o_proj", shape.hidden),
        ):
            yield f"{at}.self_attn.{name}.weight", weight(rows, shape.hidden)
        for name in ("gate_proj", "up_proj"):
            yield f"{at}.mlp.{name}.weight", weight(shape.intermediate, shape.hidden)
        yield f"{at}.mlp.down_proj.weight", weight(shape.hidden, shape.intermediate)
        yield f"{at}.input_layernorm.weight", norm()
        yield f"{at}.post_attention_layernorm.weight", norm()
    yield "model.norm.weight", norm()
    if not shape.tied:
        yield "lm_head.weight", weight(shape.vocab, shape.hidden)


def _config(shape: SampleShape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": shape.dtype,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.hidden // shape.heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def _tokenizer_config(shape: SampleShape) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": shape.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
