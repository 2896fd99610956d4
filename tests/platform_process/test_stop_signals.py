"""Stop signals: the first is for a clean end, the second ends the process."""

import signal
import subprocess
import sys

_SIGNALLED = """
import signal, threading
from pilotlight_platform.stop_signals import stop_signals
stop = threading.Event()
with stop_signals(stop):
    signal.raise_signal(signal.SIGTERM)
    print("stopping" if stop.is_set() else "swallowed", flush=True)
    signal.raise_signal(signal.SIGTERM)
    print("still here", flush=True)
"""


def test_second_signal_ends_the_process() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _SIGNALLED], capture_output=True, text=True, timeout=60
    )

    assert run.stdout == "stopping\n"
    assert run.returncode == -signal.SIGTERM
