"""What a file system says, in the loader's words."""

from __future__ import annotations

import errno

from pilotlight_loader.errors import (
    AccessDeniedError,
    ObjectMissingError,
    SourceReadError,
    TransientReadError,
)


def os_error(error: OSError, location: str) -> SourceReadError:
    """The loader's name for what a file system said."""
    reason = error.strerror or str(error)
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ENAMETOOLONG | errno.ELOOP:
            return ObjectMissingError(location, reason)
        case errno.EACCES | errno.EPERM:
            return AccessDeniedError(location, reason)
        case errno.EIO | errno.EAGAIN | errno.EINTR | errno.ETIMEDOUT | errno.ESTALE:
            return TransientReadError(location, reason)
        case _:
            return SourceReadError(location, reason)
