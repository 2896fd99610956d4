"""Exit codes of the `pilotlight` command. Scripts may rely on them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    UNEXPECTED = 1  # a bug, or an operating system error nobody foresaw
    USAGE = 2  # unknown command or option, malformed option value
    BAD_INPUT = 3  # the model file, the checkpoint or the request must be changed
    NOT_FOUND = 4  # no such model or request
    UNREACHABLE = 5  # no platform answers
    REFUSED = 6  # the platform refused or failed: busy, wrong key, failed deploy
    MACHINE_UNFIT = 7  # port taken, Ray running, disk full, something not installed
    NOT_MET = 8  # the files do not meet the model's cold_start_slo
    INTERRUPTED = 130  # Ctrl-C
