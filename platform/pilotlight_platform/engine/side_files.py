"""What a worker needs beside the weights: config and tokenizer, tried out at the deploy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pilotlight_platform.engine.chat import encode_messages
from pilotlight_platform.engine.skeleton import load_tokenizer
from pilotlight_platform.engine.time_limit import time_limit
from pilotlight_platform.errors import InvalidRequestError, SourceError

# What a tokenizer may consist of, beside the weights and config.json.
_TOKENIZER_PATTERNS = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
_TEMPLATE_TIMEOUT_S = 5.0


def save_side_files(source: Path, destination: Path, model: Any, dtype: str) -> None:
    """Write to *destination* what *source* has of them. Raises SourceError."""
    model.config.dtype = dtype
    model.config.save_pretrained(destination)
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", destination / "generation_config.json")
    try:
        tokenizer = load_tokenizer(source)
    except Exception as error:  # each tokenizer class fails in its own way
        raise SourceError(f"{source}: the tokenizer cannot be loaded: {error}") from error
    if tokenizer is None:
        return
    _try_chat_template(source, tokenizer)
    for pattern in _TOKENIZER_PATTERNS:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, destination / path.name)
    if not (source / "tokenizer.json").is_file():
        # Converting a sentencepiece model takes seconds: once here, not in every worker.
        tokenizer.save_pretrained(destination)


def _try_chat_template(source: Path, tokenizer: Any) -> None:
    """A template is a program: in a worker it would hold up everybody's requests."""
    try:
        with time_limit(_TEMPLATE_TIMEOUT_S):
            encode_messages(tokenizer, [{"role": "user", "content": "Hello"}])
    except TimeoutError as error:
        raise SourceError(f"{source}: the chat template {error} for one short message") from error
    except InvalidRequestError as error:
        raise SourceError(f"{source}: {error.message}") from error
