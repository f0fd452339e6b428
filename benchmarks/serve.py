"""The server against direct calls, in one run: throughput with many clients, latency with one, moderation of a stream.

    python benchmarks/serve.py BUNDLE [ROWS]

Clients are threads of a process of their own, with Python's http.client and connections that stay open.
"""

from __future__ import annotations

import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

CLIENTS = 32


def client(port: str, clients: str, seconds: str) -> None:
    """Sends the texts on stdin, a JSON list, once and over again; prints the answers a second and the latencies."""
    texts, waiting, lock = json.load(sys.stdin), [], threading.Lock()
    waiting = list(texts)
    latencies: list[float] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=600)
        while True:
            with lock:
                if not waiting:
                    return
                text = waiting.pop(0)
            began = time.perf_counter()
            connection.request("POST", "/v1/score", json.dumps({"text": text}), {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()
            latencies.append(time.perf_counter() - began)

    threads = [threading.Thread(target=ask) for _ in range(int(clients))]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps([time.perf_counter() - began, sorted(latencies)]))


def load(port: int, texts: list[str], clients: int) -> tuple[float, list[float]]:
    command = [sys.executable, __file__, "--client", str(port), str(clients), "0"]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
    seconds, latencies = json.loads(done.stdout)
    return seconds, latencies


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(bundle: str, rows: int) -> None:
    from messages import MESSAGES

    from tokmarg import Guard

    texts = [f"{MESSAGES[n % len(MESSAGES)]} ({n})" for n in range(rows)]
    guard = Guard.load(bundle, device="cpu")
    command = [sys.executable, "-m", "tokmarg", "serve", "--bundle", bundle, "--port", "0", "--prompt-cache", "0"]
    server = subprocess.Popen([*command, "--timeout", "600"], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    port = next(int(found[1]) for line in server.stderr if (found := re.search(r"running on \S+:(\d+) ", line)))
    threading.Thread(target=server.stderr.read, daemon=True).start()
    list(guard.score_many(texts[:8]))
    load(port, texts[:8], 8)
    shares, gaps = [], []
    for _ in range(3):
        direct = timed(lambda: list(guard.score_many(texts)))
        served, _ = load(port, texts, CLIENTS)
        shares.append(direct / served)
        print(f"{rows} rows: score_many {rows / direct:.2f}/s, {CLIENTS} clients {rows / served:.2f}/s", flush=True)
        alone = statistics.median(timed(lambda text=text: guard.score(text)) for text in texts[:16])  # type: ignore[misc]
        single = statistics.median(load(port, texts[:16], 1)[1])
        gaps.append(single - alone)
        print(f"one at a time: direct p50 {1e3 * alone:.1f} ms, one client p50 {1e3 * single:.1f} ms", flush=True)
    print(f"throughput of score_many: {statistics.median(shares):.2f}; p50 above a direct call: "
          f"{1e3 * statistics.median(gaps):.1f} ms")  # fmt: skip
    server.terminate()
    server.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--client":
        client(*sys.argv[2:])
    else:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 128)
