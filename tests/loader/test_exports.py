from __future__ import annotations

import pilotlight_loader


def test_exports_are_exactly_these():
    assert sorted(pilotlight_loader.__all__) == [
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
        "LAYOUT_VERSION",
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


def test_exports_exist():
    assert all(hasattr(pilotlight_loader, name) for name in pilotlight_loader.__all__)
