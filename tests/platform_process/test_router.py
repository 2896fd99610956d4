"""The router as Serve makes it: in another process, from a pickle that has its module by value."""

import subprocess
import sys

from ray.serve.config import RequestRouterConfig

from pilotlight_platform.router import WorkerRouter

LOADED = """
import sys
from ray import cloudpickle
from pilotlight_platform.running import running_workers

class Bare(cloudpickle.loads(sys.stdin.buffer.read())):
    def __init__(self):
        pass

for base in Bare.__mro__[2:]:
    if "update_replicas" in vars(base):
        base.update_replicas = lambda self, replicas: None  # Serve's own, which wants a cluster
Bare().update_replicas([])
print(running_workers.value)
"""


def test_router_that_serve_unpickles_tells_its_process_who_runs() -> None:
    config = RequestRouterConfig(request_router_class=WorkerRouter)
    answer = subprocess.run(
        [sys.executable, "-c", LOADED],
        input=config.get_serialized_request_router_cls(),
        capture_output=True,
        timeout=60,
    )

    assert answer.returncode == 0, answer.stderr.decode()
    assert answer.stdout.decode().strip() == "frozenset()"
