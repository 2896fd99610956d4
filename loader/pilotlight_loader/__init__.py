"""From bytes to tensors: checkpoints checked, baked, mapped and attached. Needs torch only."""

from __future__ import annotations

from pilotlight_loader.attach import AttachPlan, AttachReport
from pilotlight_loader.bake import bake
from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.checkpoint import Checkpoint, open_checkpoint
from pilotlight_loader.errors import (
    AccessDeniedError,
    ArenaError,
    ArenaFullError,
    AttachMismatchError,
    CacheError,
    CacheFullError,
    CheckpointError,
    ChecksumError,
    DeviceError,
    DiskFullError,
    HeaderError,
    LayoutVersionError,
    LoadCancelledError,
    LoaderError,
    LoadFailedError,
    LocationError,
    MissingShardError,
    ObjectChangedError,
    ObjectMissingError,
    RangeAnswerError,
    ReadAbortedError,
    SourceReadError,
    TransientReadError,
    UnsafeCheckpointError,
    UnsupportedDtypeError,
)
from pilotlight_loader.header import Header, TensorInfo, parse_header, read_header
from pilotlight_loader.layout import LAYOUT_VERSION, Layout, plan_layout
from pilotlight_loader.mapping import MappedCheckpoint, PrefaultReport
from pilotlight_loader.order import record_execution_order
from pilotlight_loader.stand_in import StandInCheckpoint

__all__ = [
    "LAYOUT_VERSION",
    "AccessDeniedError",
    "ArenaError",
    "ArenaFullError",
    "AttachMismatchError",
    "AttachPlan",
    "AttachReport",
    "BakedCheckpoint",
    "Cache",
    "CacheError",
    "CacheFullError",
    "Checkpoint",
    "CheckpointError",
    "ChecksumError",
    "DeviceError",
    "DiskFullError",
    "Header",
    "HeaderError",
    "Layout",
    "LayoutVersionError",
    "LoadCancelledError",
    "LoadFailedError",
    "LoaderError",
    "LocationError",
    "MappedCheckpoint",
    "MissingShardError",
    "ObjectChangedError",
    "ObjectIdentity",
    "ObjectMissingError",
    "PrefaultReport",
    "RangeAnswerError",
    "ReadAbortedError",
    "SourceReadError",
    "StandInCheckpoint",
    "TensorInfo",
    "TransientReadError",
    "UnsafeCheckpointError",
    "UnsupportedDtypeError",
    "bake",
    "open_checkpoint",
    "parse_header",
    "plan_layout",
    "read_header",
    "record_execution_order",
]
