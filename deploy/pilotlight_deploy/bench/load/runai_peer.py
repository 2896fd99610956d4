"""The peer from an object store: Run:ai Model Streamer, to CPU tensors, with its defaults.

`python -m pilotlight_deploy.bench.load.runai_peer s3://bucket/key` answers each line on stdin with
the seconds of one load, as JSON. A process of its own: its C++ client reads its settings once.
"""

from __future__ import annotations

import json
import sys
import time

from runai_model_streamer import SafetensorsStreamer


def main(location: str) -> None:
    for _line in sys.stdin:
        began_s = time.perf_counter()
        nbytes = 0
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(location)
            for _name, tensor in streamer.get_tensors():
                nbytes += tensor.numel() * tensor.element_size()
        spent_s = time.perf_counter() - began_s
        sys.stdout.write(json.dumps({"seconds": spent_s, "nbytes": nbytes}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
