"""A process that uses a cache, to be killed: `python cache_child.py PACKAGE DIRECTORY ACTION …`.

It says on stdout how far it is, and goes on when a line comes on stdin.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import types
from pathlib import Path

_PACKAGE = Path(sys.argv[1])

# Without the package's __init__, which imports torch: 1.5 s for each child. That this works also
# says that the disk tier needs no torch.
_bare = types.ModuleType("pilotlight_loader")
_bare.__path__ = [str(_PACKAGE)]
sys.modules["pilotlight_loader"] = _bare

from pilotlight_loader.cache.cache import Cache  # noqa: E402
from pilotlight_loader.cache.filling import Filling  # noqa: E402
from pilotlight_loader.cache.identity import ObjectIdentity  # noqa: E402
from pilotlight_loader.cache.lease import Lease  # noqa: E402
from pilotlight_loader.errors import LoaderError  # noqa: E402


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


def pause() -> None:
    sys.stdin.readline()


def lease(cache: Cache, identity: ObjectIdentity) -> None:
    """Hold a lease."""
    held = cache.lease(identity)
    assert held is not None
    with held:
        say("leased")
        pause()


def fill(cache: Cache, identity: ObjectIdentity, source: str, upto: str) -> None:
    """Lead a fill, write the first bytes of it, wait, write the rest and publish."""
    data = memoryview(Path(source).read_bytes())
    filling = cache.begin(identity)
    assert filling is not None
    with filling:
        filling.write(0, data[: int(upto)], lambda: say("written"))
        pause()
        write_missing(filling, data)
        filling.publish().close()
        say("published")


def claim(cache: Cache, identity: ObjectIdentity, source: str) -> None:
    """Get the bytes, one way or the other; the answer is how."""
    say("ready")
    pause()
    found = cache.claim(identity, 30.0)
    if isinstance(found, Lease):
        found.close()
        say("followed")
        return
    with found as filling:
        write_missing(filling, memoryview(Path(source).read_bytes()))
        filling.publish().close()
    say("led")


def fill_limited(cache: Cache, identity: ObjectIdentity, source: str, limit: str) -> None:
    """Meet a limit on the file's size in the middle of a fill."""
    import resource  # noqa: PLC0415 - this child only

    data = memoryview(Path(source).read_bytes())
    released = []
    filling = cache.begin(identity)
    assert filling is not None
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    with filling:
        filling.write(0, data, lambda: released.append(1))
        try:
            filling.publish()
        except LoaderError as error:
            say(type(error).__name__, len(released))
        say("taken", filling.write(0, data[:5], lambda: released.append(1)), len(released))


def begin(cache: Cache, identity: ObjectIdentity) -> None:
    """Begin a fill for which there is no room."""
    try:
        cache.begin(identity)
    except LoaderError as error:
        say(type(error).__name__, str(error))


def die_at_each_line(cache: Cache, identity: ObjectIdentity, source: str, stride: str) -> None:
    """Fork a process that is killed at a line of its own; then get the bytes all the same.

    Until one gets to its end. The answer is how many were killed.
    """
    data = memoryview(Path(source).read_bytes())
    killed = 0
    while True:
        fresh = Cache(cache.directory / str(killed))
        child = os.fork()
        if child == 0:
            _kill_at_line(1 + killed * int(stride))
            lead(fresh, identity, data)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        lost = [entry for entry in fresh.entries() if entry.digest and not entry.location]
        assert lost == [], "a download that nobody can find"
        lead(fresh, identity, data)
        with fresh.lease(identity) as found:
            assert found.path.read_bytes() == data
        fresh.prune()
        assert [*(fresh.directory / "fills").iterdir()] == [], "something was left"
        assert fresh.nbytes() == len(data)
        if status == 0:
            return say("killed", killed)
        assert os.WTERMSIG(status) == signal.SIGKILL
        killed += 1


def _kill_at_line(number: int) -> None:
    """SIGKILL this process at the *number*-th line of the cache's code, in whatever thread."""
    count = 0

    def trace(frame: types.FrameType, event: str, argument: object) -> object:
        nonlocal count
        if "pilotlight_loader" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        if count >= number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def lead(cache: Cache, identity: ObjectIdentity, data: memoryview) -> None:
    """In two writes, the second half first."""
    found = cache.claim(identity, 10.0)
    if isinstance(found, Filling):
        with found as filling:
            filling.write(len(data) // 2, data[len(data) // 2 :], lambda: None)
            write_missing(filling, data)
            found = filling.publish()
    found.close()


def write_missing(filling: Filling, data: memoryview) -> None:
    for gap in filling.missing():
        filling.write(gap.start, data[gap.start : gap.end], lambda: None)


def main() -> None:
    _, _, directory, action, location, etag, nbytes, *rest = sys.argv
    known = (lease, fill, claim, begin, fill_limited, die_at_each_line)
    actions = {known_action.__name__: known_action for known_action in known}
    identity = ObjectIdentity(location, etag, int(nbytes))
    actions[action](Cache(Path(directory)), identity, *rest)


if __name__ == "__main__":
    main()
