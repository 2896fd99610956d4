"""Cluster files: YAML to ``ClusterFile``, with every problem named by its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pilotlight_autoscaler import ClusterFile
from pilotlight_deploy.model_file import read_mapping, validated


def is_cluster_file(file: Path) -> bool:
    """Whether *file* has a cluster file's block and nothing of a model's. Raises ModelFileError."""
    values, _ = read_mapping(file)
    return "pool" in values and not values.keys() & {"name", "source", "autoscaling"}


def read_cluster_file(file: Path) -> ClusterFile:
    """Raises ModelFileError."""
    values, lines = read_mapping(file)
    return validated(ClusterFile, values, file, lines)


def cluster_schema() -> dict[str, Any]:
    """JSON schema of the cluster file, for editors."""
    return ClusterFile.model_json_schema()
