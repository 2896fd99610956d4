"""The one error of the command: a line for the user, an exit code for scripts."""

from __future__ import annotations

from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_platform.errors import PlatformError

_BY_CODE = {
    "invalid_api_key": ExitCode.REFUSED,
    "invalid_source": ExitCode.BAD_INPUT,
    "machine_unfit": ExitCode.MACHINE_UNFIT,
    "min_replicas_too_high": ExitCode.BAD_INPUT,
}
_BY_STATUS = {
    400: ExitCode.BAD_INPUT,
    404: ExitCode.NOT_FOUND,
    413: ExitCode.BAD_INPUT,
}
_HINTS = {
    "invalid_api_key": "set PILOTLIGHT_API_KEY to the platform's key",
}


class CliError(Exception):
    """What went wrong, what to do next, and the exit code. A line of *message* per problem."""

    def __init__(self, message: str, exit_code: ExitCode, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint

    def lines(self) -> list[str]:
        """The lines for the terminal; the hint follows a single problem on its line."""
        problems = [line for line in self.message.splitlines() if line.strip()]
        lines = [f"error: {problem}" for problem in problems or ["unknown"]]
        if self.hint is None:
            return lines
        if len(lines) == 1:
            return [f"{lines[0].rstrip('.')}: {self.hint}"]
        return [*lines, self.hint]


def from_api(message: str, code: str, status: int | None = None) -> CliError:
    """The error that the platform's API answered; *status* is None inside a stream."""
    exit_code = _BY_CODE.get(code)
    if exit_code is None:
        exit_code = _BY_STATUS.get(status or _status_of(code), ExitCode.REFUSED)
    return CliError(message, exit_code, _HINTS.get(code))


def from_platform(error: PlatformError) -> CliError:
    """The error that the platform raised in this process."""
    return from_api(error.message, error.code, error.status)


def _status_of(code: str) -> int:
    return _STATUS_BY_CODE.get(code, 500)


def _classes(root: type[PlatformError]) -> list[type[PlatformError]]:
    return [root, *(found for child in root.__subclasses__() for found in _classes(child))]


_STATUS_BY_CODE = {kind.code: kind.status for kind in _classes(PlatformError)}
