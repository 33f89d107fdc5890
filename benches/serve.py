"""Load of `vidense serve` with vidense-mini: many clients at once against one client after another, on the loopback interface.

    python benches/serve.py [--binary target/release/vidense] [--clients 64] [--each 10]

Every client asks questions about one clip, each with a connection of its own; answers must be those of `vidense ask`. Printed as one JSON object:
requests a second of both ways, their ratio, the median and the 95th percentile of the latency in milliseconds, and the server's resident memory
before and after in MiB (Linux).
"""

import argparse
import base64
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

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


def ask(url, body):
    """The answer to a body, and the seconds that it took."""
    request = urllib.request.Request(url + "/v1/chat/completions", body, {"Content-Type": "application/json"})
    begin = time.monotonic()
    with urllib.request.urlopen(request, timeout=600) as response:
        text = json.load(response)["choices"][0]["message"]["content"]
    return text, time.monotonic() - begin


def run(url, expected, n_clients, n_each):
    """Requests a second, and the latencies, of clients that ask at once."""
    uri = "data:video/mp4;base64," + base64.b64encode(CLIP.read_bytes()).decode()
    parts = [{"type": "video_url", "video_url": {"url": uri}}]
    messages = [[{"role": "user", "content": parts + [{"type": "text", "text": question}]}] for question in QUESTIONS]
    bodies = [json.dumps({"messages": message}).encode() for message in messages]
    latencies, failures, lock = [], [], threading.Lock()

    def client(number):
        for i in range(n_each):
            which = (number + i) % len(QUESTIONS)
            try:
                text, seconds = ask(url, bodies[which])
            except OSError as error:
                text, seconds = str(error), 0.0
            with lock:
                latencies.append(seconds)
                if text != expected[which]:
                    failures.append((QUESTIONS[which], text))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(n_clients)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begin
    if failures:
        sys.exit(f"{len(failures)} of {len(latencies)} requests failed, the first: {failures[0]}")
    return len(latencies) / seconds, latencies


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "vidense")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--each", type=int, default=10)
    options = parser.parse_args()
    expected = [asked(options.binary, question) for question in QUESTIONS]
    with Server(options.binary, "--no-cache") as server:
        run(server.url, expected, 1, len(QUESTIONS))
        alone, _ = run(server.url, expected, 1, options.each * 4)
        before = resident(server.process.pid)
        together, latencies = run(server.url, expected, options.clients, options.each)
        after = resident(server.process.pid)
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
                "memory_mib": [before and round(before), after and round(after)],
            }
        )
    )


if __name__ == "__main__":
    main()
