from __future__ import annotations

import pilotlight_loader


def test_exports_are_exactly_these():
    assert sorted(pilotlight_loader.__all__) == [
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
        "LAYOUT_VERSION",
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


def test_exports_exist():
    assert all(hasattr(pilotlight_loader, name) for name in pilotlight_loader.__all__)
