"""Load of `vidense serve` with vidense-mini: many clients at once against one client after another, on the loopback interface.

    python benches/serve.py [--binary target/release/vidense] [--clients 64] [--each 10]

Every client asks questions about one clip over a connection of its own; answers must be those of `vidense ask`. Printed as one JSON object: requests a
second of both ways, their ratio, the median and the 95th percentile of the latency in milliseconds, the processor time of a request in milliseconds by
process, and the server's resident memory before and after in MiB (Linux). One thread drives all clients with prepared bytes, so that the load costs
little beside the server on the same cores.
"""

import argparse
import base64
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "clients"))
from server import Server  # noqa: E402

CLIP = ROOT / "samples" / "three_shapes.mp4"
QUESTIONS = [
    "What color is the circle?",
    "How many objects are there?",
    "What pattern does the red cross have?",
    "What color is the square?",
]


def asked(binary, question):
    """The answer of `vidense ask`."""
    return subprocess.check_output([binary, "ask", CLIP, question], text=True).strip()


def resident(pid):
    """Resident memory of a process in MiB, or None where /proc is missing."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def processor_seconds(pid):
    """Processor time of a process so far, or NaN where /proc is missing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    # User and system time are the fields 14 and 15; the state, the first one here, is the field 3.
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def requests(site):
    """The bytes of a request for each question."""
    uri = "data:video/mp4;base64," + base64.b64encode(CLIP.read_bytes()).decode()
    parts = [{"type": "video_url", "video_url": {"url": uri}}]
    for question in QUESTIONS:
        message = {"role": "user", "content": parts + [{"type": "text", "text": question}]}
        body = json.dumps({"messages": [message]}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {site}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        yield head.encode() + body


class Client:
    """A connection with one request on the way."""

    def __init__(self, address, number, n_each):
        self.connection = socket.create_connection(address)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.questions = [(number + i) % len(QUESTIONS) for i in range(n_each)]
        self.received = b""

    def send(self, prepared):
        """Sends the next request."""
        self.received, self.begin = b"", time.monotonic()
        self.connection.sendall(prepared[self.questions[0]])

    def receive(self):
        """The body of the response, once it is complete."""
        piece = self.connection.recv(1 << 16)
        if not piece:
            sys.exit(f"the server closed a connection: {self.received[:500]}")
        self.received += piece
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return body if len(body) >= int(length.split(b":")[1]) else None


def run(url, expected, n_clients, n_each):
    """Requests a second, and the latencies, of clients that ask at once."""
    site = urlsplit(url)
    prepared, selector = list(requests(site.netloc)), selectors.DefaultSelector()
    clients = [Client((site.hostname, site.port), number, n_each) for number in range(n_clients)]
    latencies, bodies = [], []
    begin = time.monotonic()
    for client in clients:
        selector.register(client.connection, selectors.EVENT_READ, client)
        client.send(prepared)
    while selector.get_map():
        for key, _ in selector.select():
            client = key.data
            if (body := client.receive()) is None:
                continue
            latencies.append(time.monotonic() - client.begin)
            bodies.append((client.questions.pop(0), body))
            if client.questions:
                client.send(prepared)
            else:
                selector.unregister(client.connection)
                client.connection.close()
    seconds = time.monotonic() - begin
    for which, body in bodies:
        choices = json.loads(body).get("choices")
        if not choices or choices[0]["message"]["content"] != expected[which]:
            sys.exit(f"a request failed: {QUESTIONS[which]}: {body.decode()}")
    return len(latencies) / seconds, latencies


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "vidense")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--each", type=int, default=10)
    options = parser.parse_args()
    expected = [asked(options.binary, question) for question in QUESTIONS]
    with Server(options.binary, "--no-cache") as server:
        pid = server.process.pid

        def timed(n_clients, n_each):
            """A run, and the processor time of each of its requests in milliseconds, of the server and of the load."""
            processes = [pid, os.getpid()]
            before = [processor_seconds(process) for process in processes]
            rate, latencies = run(server.url, expected, n_clients, n_each)
            after = [processor_seconds(process) for process in processes]
            spent = [round(1000 * (end - begin) / len(latencies), 2) for begin, end in zip(before, after)]
            return rate, latencies, dict(zip(["server", "load"], spent))

        run(server.url, expected, 1, len(QUESTIONS))
        alone, _, alone_cpu = timed(1, options.each * options.clients)
        before = resident(pid)
        together, latencies, together_cpu = timed(options.clients, options.each)
        after = resident(pid)
    print(
        json.dumps(
            {
                "clients": options.clients,
                "requests": len(latencies),
                "alone_per_second": round(alone, 1),
                "together_per_second": round(together, 1),
                "ratio": round(together / alone, 2),
                "p50_ms": round(1000 * statistics.median(latencies)),
                "p95_ms": round(1000 * statistics.quantiles(latencies, n=20)[-1]),
                "alone_cpu_ms": alone_cpu,
                "together_cpu_ms": together_cpu,
                "memory_mib": [before and round(before), after and round(after)],
            }
        )
    )


if __name__ == "__main__":
    main()
