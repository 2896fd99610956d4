"""A real web server that serves ranges fast: nginx over a directory, on a free loopback port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.free_port import free_port

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 10.0
# One worker process: two cores are shared with the side that reads.
_CONFIG = """
daemon off; master_process off; worker_processes 1;
pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; max_ranges 1;
  client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;
  fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@contextmanager
def serve_with_nginx(root: Path) -> Iterator[str]:
    """The URL under which *root* is served. Raises CliError if nginx is not installed."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        raise CliError(
            "nginx is not installed", ExitCode.MACHINE_UNFIT, "apt-get install nginx-light"
        )
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pilotlight-nginx-") as directory:
        config = Path(directory) / "nginx.conf"
        config.write_text(_CONFIG.format(directory=directory, port=port, root=root))
        server = subprocess.Popen(
            [program, "-p", directory, "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until_listening(server, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def nginx_version() -> str | None:
    """As nginx prints it; None if it is not installed."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        return None
    answer = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10)
    return answer.stderr.strip().rpartition("/")[2]


def _wait_until_listening(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise CliError("nginx did not start", ExitCode.MACHINE_UNFIT)
