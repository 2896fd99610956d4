"""Models as the user writes them, and as the platform reports and keeps them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.quantiles import Quantiles
from pilotlight_autoscaler.snapshot import Tier
from pilotlight_platform.schemas.cold_start import ColdStartStatus, ForetoldOn

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "int4", "fp8"]
Sparsity = Literal["none", "2:4"]
QuantizationRounding = Literal["auto", "nearest", "gptq"]
QuantizationDevice = Literal["cpu", "cuda"]  # whose kernels codes are laid out for
ModelState = Literal["zero", "attaching", "ready", "failed"]
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BakePhase = Literal["fetch", "check", "load", "bake", "verify"]


class ModelSpec(BaseModel):
    """A model file: what to serve, from where, and how it scales."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Pilotlight model file")

    version: Literal[1] = Field(1, description="Version of this file's format.")
    name: ModelName = Field(description="Endpoint name: lower case letters, digits, '.', '_', '-'.")
    source: str = Field(
        min_length=1,
        description="A Hugging Face checkpoint in safetensors: a directory, or an s3://, "
        "http(s):// or hf:// address.",
    )
    revision: str | None = Field(
        None, description="Label kept with the revision, e.g. a git commit."
    )
    task: Literal["text-generation"] = Field("text-generation", description="What the model does.")
    dtype: Dtype = Field("auto", description="Weights' type; auto keeps the checkpoint's own.")
    quantization: Quantization = Field(
        "none",
        description="Weights in fewer bits: int8 and fp8 (e4m3) per row, int4 in groups of 128; "
        "more bits where errors cost most, such as in the first and the last layer.",
    )
    quantization_uniform: bool = Field(
        False,
        description="The same bits for all layers, the first and the last included: fewest bytes.",
    )
    quantization_rounding: QuantizationRounding = Field(
        "auto",
        description="How weights are rounded; gptq asks a text what matters, and takes "
        "long. auto: gptq for up to half a billion weights (100 million in int4), or with a text.",
    )
    quantization_text: str | None = Field(
        None,
        min_length=1,
        description="UTF-8 file whose text calibrates gptq; without one what the model says "
        "itself, or for more than half a billion weights a text that comes along.",
    )
    quantization_skip: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="Layers that stay as they are, by name: patterns such as 'model.layers.0' "
        "or '*.down_proj'.",
    )
    sparsity: Sparsity = Field(
        "none",
        description="2:4 stores linear weights of that pattern in 0.57 of their bytes; the first "
        "forward expands them on a CPU, so it pays where weights come over a slow link.",
    )
    max_context_tokens: int | None = Field(
        None,
        ge=2,
        description="Tokens that prompt and answer may have together, where fewer than the model "
        "allows are to bound the memory of keys and values.",
    )
    autoscaling: AutoscalingConfig = Field(
        default_factory=AutoscalingConfig, description="Replicas, limits and idle time."
    )

    @model_validator(mode="after")
    def _wishes_fit(self) -> Self:
        """A wish that nothing would heed is a mistake."""
        if self.quantization_rounding == "gptq" and self.quantization == "none":
            raise ValueError("quantization_rounding: nothing is quantized: set quantization")
        if self.quantization_text is not None and (
            self.quantization_rounding == "nearest" or self.quantization == "none"
        ):
            raise ValueError("quantization_text: only gptq reads one: set quantization_rounding")
        if self.quantization_skip and self.quantization == "none":
            raise ValueError("quantization_skip: nothing is quantized: set quantization")
        if self.quantization_uniform and self.quantization in ("none", "int8"):
            found = {"none": "nothing is quantized: set quantization"}.get(
                self.quantization, "int8 has the same bits in all layers: leave it out"
            )
            raise ValueError(f"quantization_uniform: {found}")
        if self.sparsity != "none" and self.quantization != "none":
            raise ValueError("sparsity: 2:4 weights are stored in 16 bits: leave quantization out")
        return self


class Revision(BaseModel):
    """One immutable version of a model: a baked checkpoint and where it came from."""

    model_config = ConfigDict(frozen=True)

    id: str  # content address: digest of the source and of all that shaped the bake
    path: str  # directory of the baked checkpoint on this node
    source: str
    source_digest: str
    label: str | None = None
    dtype: str
    quantization: str = "none"  # int8, int4, fp8; "int4 (gptq)" where the source had the codes
    # How the deploy rounded the others, which `auto` leaves open; None: it rounded none, or is old.
    rounding: Literal["nearest", "gptq"] | None = None
    architecture: str
    parameters: int
    nbytes: int  # of the baked weights
    context_length: int
    cache_nbytes: int = 0  # keys and values of a request that fills the context; 0: not known
    created_at_s: float

    @property
    def compute_nbytes(self) -> int:
        """Of the weights without quantization: what a forward pass works through."""
        return self.parameters * _ITEM_BYTES.get(self.dtype, 2)


class ModelRecord(BaseModel):
    """What the store keeps of a live model."""

    model_config = ConfigDict(frozen=True)

    spec: ModelSpec
    revision: Revision
    created_at_s: float
    updated_at_s: float
    # Seconds that its cold starts were to take, as it went live or came to this machine; by tier.
    predicted: dict[Tier, Quantiles] = {}
    # Of that, from the order until the weights are there: the policy's L until one is measured.
    predicted_load_s: dict[Tier, float] = {}
    foretold_on: ForetoldOn = ForetoldOn()  # where these hold


class ReplicaStatus(BaseModel):
    worker_id: str
    revision_id: str
    phase: Literal["attaching", "ready", "draining"]
    ongoing: int


class ModelStatus(BaseModel):
    """What the admin API answers for one model."""

    name: str
    state: ModelState
    record: ModelRecord
    queued: int
    replicas: list[ReplicaStatus]
    last_error: str | None = None
    cold_starts: ColdStartStatus | None = None


class WorkerStatus(BaseModel):
    worker_id: str
    node_id: str
    pid: int
    threads: int
    capacity_bytes: int
    attached: list[str]  # model names
    leaving: bool = False  # it gets no new requests, and goes when its streams have ended


class PlatformStatus(BaseModel):
    """What `/api/status` answers."""

    version: str
    uptime_s: float
    workers: list[WorkerStatus]
    models: list[ModelStatus]


class DeployProgress(BaseModel):
    """One step of a deploy; the last one of its phase has ``done == total``."""

    event: Literal["progress"] = "progress"
    phase: BakePhase | Literal["prepare"]
    message: str
    done_bytes: int = 0
    total_bytes: int = 0


class DeployLive(BaseModel):
    event: Literal["live"] = "live"
    model: ModelStatus
    reused: bool  # the baked checkpoint was there already


class DeployFailed(BaseModel):
    event: Literal["error"] = "error"
    code: str
    message: str


class BakeDone(BaseModel):
    """The end of a bake: a published checkpoint."""

    event: Literal["baked"] = "baked"
    revision: Revision
    reused: bool  # it was there already


BakeEvent = Annotated[DeployProgress | BakeDone | DeployFailed, Field(discriminator="event")]
DeployEvent = Annotated[DeployProgress | DeployLive | DeployFailed, Field(discriminator="event")]
