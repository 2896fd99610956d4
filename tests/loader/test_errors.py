from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pilotlight_loader import (
    AttachMismatchError,
    CheckpointError,
    ChecksumError,
    DiskFullError,
    HeaderError,
    LayoutVersionError,
    LoaderError,
    MissingShardError,
    QuantizedFormatError,
    UnsafeCheckpointError,
    UnsupportedDtypeError,
)

WHERE = Path("/models/a")
ERRORS = [
    *(
        kind(WHERE, "why")
        for kind in (
            CheckpointError,
            HeaderError,
            UnsafeCheckpointError,
            MissingShardError,
            UnsupportedDtypeError,
            LayoutVersionError,
            QuantizedFormatError,
            ChecksumError,
        )
    ),
    AttachMismatchError(WHERE, ["a is missing", "b is missing"]),
    DiskFullError(WHERE, 20, 10),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_survives_pickling(error):
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_is_a_loader_error_that_names_the_path(error):
    assert isinstance(error, LoaderError)
    assert str(error).startswith("/models/a")


def test_checkpoint_error_reads_path_and_reason():
    assert str(HeaderError(WHERE, "why")) == "/models/a: why"


def test_disk_full_error_names_needed_and_free():
    assert "20 bytes are needed, 10 are free" in str(DiskFullError(WHERE, 20, 10))
