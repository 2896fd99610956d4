"""Every error of the platform.

PlatformError
├── RequestError                the caller can mend it
│   ├── InvalidRequestError
│   │   └── ContextLengthError
│   ├── ModelNotFoundError
│   ├── PoolUnchangeableError
│   ├── FloorsTooHighError
│   ├── AuthenticationError
│   └── BodyTooLargeError
├── OverloadedError             refused now, try later
│   ├── QueueFullError
│   └── ColdStartTimeoutError
├── DeployError                 the model cannot be made live
│   ├── SourceError             the checkpoint is missing, unsafe, broken or of no known kind
│   └── VerificationError       the baked checkpoint does not answer like its source
├── ReplicaGoneError            routed to a replica that is no longer there: route again
├── AttachError                 the worker could not attach the revision
│   └── EvictionRefusedError    a victim is busy again: decide anew
├── WorkerLostError             the worker died under the request
├── EngineError                 the model failed while it ran
├── StoreError                  Redis does not answer
└── MachineError                the machine is not fit: port taken, Ray running, disk full
"""

from __future__ import annotations


class PlatformError(Exception):
    """Root of the platform's errors. The message says what happened and what to do next."""

    code = "internal_error"
    status = 500

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else self.__class__.__name__


class RequestError(PlatformError):
    """The caller sent something that cannot be served as it is."""

    code = "invalid_request"
    status = 400


class InvalidRequestError(RequestError):
    """A field is missing, malformed, out of range or not supported."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)

    @property
    def param(self) -> str | None:
        return None if len(self.args) < 2 else self.args[1]


class ContextLengthError(InvalidRequestError):
    """Prompt and answer do not fit into the model's context."""

    code = "context_length_exceeded"


class ModelNotFoundError(RequestError):
    """No live model of that name."""

    code = "model_not_found"
    status = 404


class PoolUnchangeableError(RequestError):
    """The running platform cannot have such a pool; one that is started anew can."""

    code = "pool_unchangeable"
    status = 409


class FloorsTooHighError(RequestError):
    """The replicas that models keep although idle do not fit the pool together."""

    code = "min_replicas_too_high"
    status = 409


class AuthenticationError(RequestError):
    """The API key is missing or wrong."""

    code = "invalid_api_key"
    status = 401


class BodyTooLargeError(RequestError):
    """The request body is larger than the gateway reads."""

    code = "body_too_large"
    status = 413


class OverloadedError(PlatformError):
    """Refused now; the same request may pass later."""

    code = "overloaded"
    status = 503

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s)

    @property
    def retry_after_s(self) -> float:
        return float(self.args[1])


class QueueFullError(OverloadedError):
    """`max_queued_requests` are waiting already; the newest is refused, not the oldest."""

    code = "queue_full"
    status = 429


class ColdStartTimeoutError(OverloadedError):
    """No replica became ready within `cold_start_timeout_s`."""

    code = "cold_start_timeout"


class DeployError(PlatformError):
    """The model cannot be made live; whatever was live before still is."""

    code = "deploy_failed"
    status = 422


class SourceError(DeployError):
    """The checkpoint is missing, unsafe, broken, or of a kind that is not supported."""

    code = "invalid_source"


class VerificationError(DeployError):
    """The baked checkpoint does not answer like its source."""

    code = "verification_failed"


class ReplicaGoneError(PlatformError):
    """The request was routed to a replica that has gone; routing again is safe."""

    code = "replica_gone"
    status = 503


class AttachError(PlatformError):
    """The worker could not attach the revision."""

    code = "attach_failed"
    status = 503


class EvictionRefusedError(AttachError):
    """A replica that was to make room has requests again; nothing was changed."""


class WorkerLostError(PlatformError):
    """The worker died while it served the request."""

    code = "worker_lost"
    status = 503


class EngineError(PlatformError):
    """The model failed while it ran."""

    code = "engine_error"


class StoreError(PlatformError):
    """Redis does not answer; what is attached is served all the same."""

    code = "store_unreachable"
    status = 503


class MachineError(PlatformError):
    """The machine is not fit to run the platform: port taken, Ray running, disk full."""

    code = "machine_unfit"
