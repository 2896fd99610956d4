"""Cluster files: YAML to ``ClusterFile``, with every problem named by its place."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pilotlight_autoscaler import ClusterFile
from pilotlight_deploy.model_file import ModelFileError, read_mapping, validated
from pilotlight_platform.schemas.model import ModelSpec

_VERSION = "version"  # both kinds have it
_CLUSTER_KEYS = ClusterFile.model_fields.keys() - {_VERSION}
_MODEL_KEYS = ModelSpec.model_fields.keys() - {_VERSION}


def is_cluster_file(file: Path) -> bool:
    """Whether *file* is a cluster file rather than a model file, by the keys that it has.

    Raises ModelFileError for one that has keys of both, or of neither.
    """
    values, _ = read_mapping(file)
    of_cluster = sorted(_CLUSTER_KEYS & values.keys())
    of_model = sorted(_MODEL_KEYS & values.keys())
    if of_cluster and of_model:
        raise ModelFileError(
            [
                f"{file}: {of_cluster[0]}: is of a cluster file, {of_model[0]}: of a model file: "
                "write two files"
            ]
        )
    if not of_cluster and not of_model:
        raise ModelFileError([f"{file}: {_neither(values)}"])
    return bool(of_cluster)


def read_cluster_file(file: Path) -> ClusterFile:
    """Raises ModelFileError."""
    values, lines = read_mapping(file)
    return validated(ClusterFile, values, file, lines)


def _neither(values: dict[str, Any]) -> str:
    says = "is neither a model file (name:, source:, autoscaling:) nor a cluster file (pool:)"
    for key in values.keys() - {_VERSION}:
        near = difflib.get_close_matches(key.lower(), sorted(_CLUSTER_KEYS | _MODEL_KEYS), n=1)
        if near:
            return f"{says}: {key} is no key of either; did you mean {near[0]}?"
    return says


def cluster_schema() -> dict[str, Any]:
    """JSON schema of the cluster file, for editors."""
    return ClusterFile.model_json_schema()
