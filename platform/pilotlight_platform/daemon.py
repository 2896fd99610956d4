"""The background process of `pilotlight up --detach`: settings on stdin, events on a pipe."""

from __future__ import annotations

import json
import os
import sys

from pilotlight_platform.address import PlatformAddress
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.settings import Settings
from pilotlight_platform.supervisor import run_platform


def main(event_descriptor: int) -> int:
    settings = Settings.model_validate_json(sys.stdin.buffer.read())
    pipe = os.fdopen(event_descriptor, "w", buffering=1)

    def send(event: str, **values: object) -> None:
        if not pipe.closed:
            try:
                pipe.write(json.dumps({"event": event, **values}) + "\n")
            except BrokenPipeError:  # whoever started us has gone: run all the same
                pipe.close()

    def on_ready(address: PlatformAddress) -> None:
        send("ready", home=address.home)
        pipe.close()

    try:
        run_platform(settings, on_ready, lambda message: send("progress", message=message))
    except PlatformError as error:
        send("error", message=error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
