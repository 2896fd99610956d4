"""Another worker of the node: loads what the first one has fetched, and maps the same bytes.

`python -m pilotlight_deploy.bench.load.second_worker ADDRESS CACHE` prints JSON when it has loaded
and mapped; it keeps the mapping until its stdin ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pilotlight_loader import BakedCheckpoint, Cache, MappedCheckpoint, open_checkpoint, stream


def main(address: str, cache_directory: Path) -> None:
    cache = Cache(cache_directory)
    nbytes = 0
    with open_checkpoint(address, cache=cache) as checkpoint:
        for _name, tensor in stream(checkpoint, cache=cache):
            nbytes += tensor.numel() * tensor.element_size()
        blob = Path(checkpoint.source(checkpoint.files[0]).location)
    mapped = map_all(blob)
    _say({"loaded_bytes": nbytes, "blob": str(blob)})
    for _line in sys.stdin:  # each asks what the mapping costs now
        _say({"pss_bytes": pss_bytes(blob)})
    mapped.close()


def map_all(blob: Path) -> MappedCheckpoint:
    """Map the file and touch every page, as a model that runs does."""
    mapped = BakedCheckpoint.open(blob).map()
    mapped.prefault()
    return mapped


def pss_bytes(path: Path) -> int:
    """This process's share of the memory of its mappings of *path*: each page ÷ its users."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            ours = line.endswith(str(path))
        elif ours and fields[0] == "Pss:":
            total += int(fields[1]) * 1024
    return total


def _say(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
