"""The OpenAI API, for all models under /v1 and for each under /models/{name}/v1."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from pilotlight_platform.errors import InvalidRequestError, WorkerLostError
from pilotlight_platform.gateway.answer_stream import AnswerStream
from pilotlight_platform.gateway.generator import Generation
from pilotlight_platform.gateway.openai_answers import Answer, ChatAnswer, CompletionAnswer
from pilotlight_platform.gateway.services import Services
from pilotlight_platform.gateway.timelines import server_timing
from pilotlight_platform.schemas.generation import (
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
)
from pilotlight_platform.schemas.openai import ChatCompletionRequest, CompletionRequest
from pilotlight_platform.schemas.timeline import Timeline

router = APIRouter()


async def _services(request: Request) -> Services:  # async: FastAPI runs others on a thread
    services: Services = request.app.state.services
    return services


Platform = Annotated[Services, Depends(_services)]


@router.get("/v1/models")
@router.get("/models/{name}/v1/models")
async def list_models(platform: Platform, name: str | None = None) -> dict[str, Any]:
    """Live models; asking wakes none."""
    routes = platform.admission.table.routes
    names = sorted(routes) if name is None else [platform.admission.route(name).record.spec.name]
    return {"object": "list", "data": [_model_object(platform, n) for n in names]}


@router.get("/v1/models/{model}")
async def get_model(platform: Platform, model: str) -> dict[str, Any]:
    return _model_object(platform, model)


def _model_object(platform: Services, name: str) -> dict[str, Any]:
    record = platform.admission.route(name).record
    return {
        "id": name,
        "object": "model",
        "created": int(record.created_at_s),
        "owned_by": "pilotlight",
    }


@router.post("/v1/completions")
@router.post("/models/{name}/v1/completions")
async def complete(
    request: Request, body: CompletionRequest, platform: Platform, name: str | None = None
) -> Response:
    model = _model_name(name, body.model)
    sampling = SamplingParams(
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        stop=body.stop_strings,
        logprobs=body.logprobs,
        ignore_eos=body.ignore_eos,
    )
    request_id = request.state.request_id
    call = GenerationRequest(
        request_id, "", sampling, prompt=body.text, prompt_tokens=body.token_ids
    )
    answer = CompletionAnswer(request_id, model)
    return await _answer(request, platform, model, call, answer, body)


@router.post("/v1/chat/completions")
@router.post("/models/{name}/v1/chat/completions")
async def chat(
    request: Request, body: ChatCompletionRequest, platform: Platform, name: str | None = None
) -> Response:
    model = _model_name(name, body.model)
    sampling = SamplingParams(
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        stop=body.stop_strings,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        ignore_eos=body.ignore_eos,
    )
    request_id = request.state.request_id
    messages = tuple(message.as_template_input() for message in body.messages)
    call = GenerationRequest(request_id, "", sampling, messages=messages)
    return await _answer(request, platform, model, call, ChatAnswer(request_id, model), body)


def _model_name(path: str | None, body: str | None) -> str:
    if path is None and not body:
        raise InvalidRequestError("model: name the model, or use /models/{name}/v1", "model")
    if path is not None and body not in (None, "", path):
        raise InvalidRequestError(
            f"model: the path says {path!r}, the body {body!r}: let them agree", "model"
        )
    return path or body or ""


async def _answer(
    request: Request,
    platform: Services,
    model: str,
    call: GenerationRequest,
    answer: Answer,
    body: CompletionRequest | ChatCompletionRequest,
) -> Response:
    async def start() -> Generation:
        return await platform.generator.start(
            model, call, endpoint=request.scope["path"], at_s=request.state.at_s
        )

    generation = await start()
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        headers = {"Server-Timing": server_timing(generation.timeline.spans)}
        return AnswerStream(generation, answer, usage=usage, headers=headers)
    try:
        chunks, timeline = await _all_of(generation)
    except WorkerLostError:  # the caller has seen nothing of it yet: once more
        chunks, timeline = await _all_of(await start())
    total = f"total;dur={(time.time() - timeline.at_s) * 1e3:.2f}"
    headers = {"Server-Timing": f"{server_timing(timeline.spans)}, {total}"}
    return JSONResponse(answer.whole(chunks, timeline), headers=headers)


async def _all_of(generation: Generation) -> tuple[list[GenerationChunk], Timeline]:
    try:
        chunks: list[GenerationChunk] = []
        async for chunk in generation.chunks():
            if not chunks:
                generation.mark_first_byte()
            chunks.append(chunk)
        return chunks, generation.timeline
    finally:
        await generation.close()
