"""A `vidense serve` process for tests of the page and of clients: started on a free port, waited for, stopped.

>>> with Server("target/release/vidense", "--model", "vidense-mini") as server:
...     urllib.request.urlopen(server.url + "/v1/models")
"""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

LOADING = 60.0  # seconds for a model to load
STOPPING = 30.0  # seconds for a server to drain after SIGTERM


def free_port():
    """A TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`vidense serve` with further arguments; `url` is its origin, `log()` its standard error."""

    def __init__(self, binary, *arguments):
        self.command = [str(binary), "serve", *map(str, arguments)]
        self.url = None
        self.process = None

    def __enter__(self):
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        self.output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*self.command, "--listen", address], stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output
        )
        self.wait()
        return self

    def wait(self):
        """Returns when /health answers 200; raises with the server's own words otherwise."""
        deadline = time.monotonic() + LOADING
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {self.log()}")
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5) as response:
                    if response.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        self.process.kill()
        raise RuntimeError(f"the server was not ready within {LOADING:.0f} s: {self.log()}")

    def log(self):
        """Standard output and standard error so far."""
        return os.pread(self.output.fileno(), 1 << 20, 0).decode(errors="replace").strip()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOPPING)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.output.close()
