"""A live model's record, with whatever a test does not care about filled in."""

from typing import Any

from pilotlight_platform.schemas.model import ModelRecord, ModelSpec, Revision


def model_record(
    name: str = "m",
    *,
    nbytes: int = 4,
    cache_nbytes: int = 0,
    max_context_tokens: int | None = None,
    **autoscaling: Any,
) -> ModelRecord:
    """The record of model *name*, whose revision is ``<name>-1`` in ``/checkpoint``."""
    revision = Revision(
        id=f"{name}-1",
        path="/checkpoint",
        source="/source",
        source_digest="d",
        dtype="float32",
        architecture="LlamaForCausalLM",
        parameters=1,
        nbytes=nbytes,
        context_length=8,
        cache_nbytes=cache_nbytes,
        created_at_s=0,
    )
    spec = ModelSpec.model_validate(
        {
            "name": name,
            "source": "/source",
            "max_context_tokens": max_context_tokens,
            "autoscaling": autoscaling,
        }
    )
    return ModelRecord(spec=spec, revision=revision, created_at_s=0, updated_at_s=0)
