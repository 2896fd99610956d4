"""From bytes to tensors: checkpoints checked, baked, mapped and attached. Needs torch only."""

from __future__ import annotations

from pilotlight_loader.attach import AttachPlan, AttachReport
from pilotlight_loader.bake import bake
from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.checkpoint import Checkpoint, open_checkpoint
from pilotlight_loader.errors import (
    AttachMismatchError,
    CheckpointError,
    ChecksumError,
    DiskFullError,
    HeaderError,
    LayoutVersionError,
    LoaderError,
    MissingShardError,
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
    "AttachMismatchError",
    "AttachPlan",
    "AttachReport",
    "BakedCheckpoint",
    "Checkpoint",
    "CheckpointError",
    "ChecksumError",
    "DiskFullError",
    "Header",
    "HeaderError",
    "Layout",
    "LayoutVersionError",
    "LoaderError",
    "MappedCheckpoint",
    "MissingShardError",
    "PrefaultReport",
    "StandInCheckpoint",
    "TensorInfo",
    "UnsafeCheckpointError",
    "UnsupportedDtypeError",
    "bake",
    "open_checkpoint",
    "parse_header",
    "plan_layout",
    "read_header",
    "record_execution_order",
]
