"""From bytes anywhere to tensors on a device: safetensors streamed, cached, baked, attached.

Needs torch; boto3 for s3:// and huggingface_hub for hf://, each when it is used.
"""

from __future__ import annotations

from pilotlight_loader.arena.arena import Arena
from pilotlight_loader.arena.fill import fill_from_file
from pilotlight_loader.arena.mapped import map_lease
from pilotlight_loader.attach import AttachPlan, AttachReport
from pilotlight_loader.bake import bake
from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.checkpoint import Checkpoint, open_checkpoint
from pilotlight_loader.devices.cpu import CpuDevice
from pilotlight_loader.devices.simulated import SimulatedDevice
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
    QuantizedFormatError,
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
from pilotlight_loader.pipeline.load import Loading, begin_load, load
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.report import LoadReport, TierReport
from pilotlight_loader.pipeline.stream import stream
from pilotlight_loader.sources.http_object import HttpOptions
from pilotlight_loader.sources.hub import HubOptions
from pilotlight_loader.sources.local import LocalOptions
from pilotlight_loader.sources.s3 import S3Options
from pilotlight_loader.stand_in import StandInCheckpoint

__all__ = [
    "LAYOUT_VERSION",
    "AccessDeniedError",
    "Arena",
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
    "CpuDevice",
    "DeviceError",
    "DiskFullError",
    "Header",
    "HeaderError",
    "HttpOptions",
    "HubOptions",
    "Layout",
    "LayoutVersionError",
    "LoadCancelledError",
    "LoadFailedError",
    "LoadReport",
    "LoaderError",
    "Loading",
    "LocalOptions",
    "LocationError",
    "MappedCheckpoint",
    "MissingShardError",
    "ObjectChangedError",
    "ObjectIdentity",
    "ObjectMissingError",
    "PrefaultReport",
    "QuantizedFormatError",
    "RangeAnswerError",
    "ReadAbortedError",
    "S3Options",
    "SimulatedDevice",
    "SourceReadError",
    "StandInCheckpoint",
    "TensorInfo",
    "TierReport",
    "TransferOptions",
    "TransientReadError",
    "UnsafeCheckpointError",
    "UnsupportedDtypeError",
    "bake",
    "begin_load",
    "fill_from_file",
    "load",
    "map_lease",
    "open_checkpoint",
    "parse_header",
    "plan_layout",
    "read_header",
    "record_execution_order",
    "stream",
]
