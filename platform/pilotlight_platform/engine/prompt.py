"""A request's prompt as token ids, checked against the model."""

from __future__ import annotations

from pilotlight_platform.engine.chat import encode_messages
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.errors import ContextLengthError, InvalidRequestError
from pilotlight_platform.schemas.generation import GenerationRequest


def encode_prompt(skeleton: Skeleton, request: GenerationRequest) -> list[int]:
    """Token ids of the prompt, at least one, with room for at least one more.

    Raises:
        InvalidRequestError: if there is no prompt, or one that the model cannot read.
        ContextLengthError: if the prompt fills the context.
    """
    ids = _ids(skeleton, request)
    if not ids and request.prompt_tokens is None and skeleton.bos_id is not None:
        ids = [skeleton.bos_id]
    if not ids:
        raise InvalidRequestError("the prompt is empty", _param(request))
    if request.prompt_tokens is not None:
        beyond = [token for token in ids if not 0 <= token < skeleton.vocab_size]
        if beyond:
            raise InvalidRequestError(
                f"token id {beyond[0]} is outside the vocabulary of {skeleton.vocab_size}", "prompt"
            )
    context = context_of(skeleton, request)
    if context is not None and len(ids) >= context:
        raise ContextLengthError(
            f"the prompt has {len(ids)} tokens and leaves no room in the context of {context}; "
            "shorten it",
            _param(request),
        )
    return ids


def context_of(skeleton: Skeleton, request: GenerationRequest) -> int | None:
    """Tokens that prompt and answer may have together; None: nothing bounds them."""
    bounds = (skeleton.context_length, request.max_context_tokens)
    return min((bound for bound in bounds if bound is not None), default=None)


def _ids(skeleton: Skeleton, request: GenerationRequest) -> list[int]:
    if request.prompt_tokens is not None:
        return list(request.prompt_tokens)
    tokenizer = skeleton.tokenizer
    if tokenizer is None:
        raise InvalidRequestError(
            "this model has no tokenizer: send the prompt as token ids", _param(request)
        )
    if request.messages is not None:
        return encode_messages(tokenizer, request.messages)
    if request.prompt is None:
        raise InvalidRequestError("the request has no prompt", "prompt")
    return list(tokenizer(request.prompt)["input_ids"])


def _param(request: GenerationRequest) -> str:
    return "prompt" if request.messages is None else "messages"
