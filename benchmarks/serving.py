"""`lec-guard serve` under load on loopback: throughput, latency, overload, idle clients, a worker that is killed.

    python -m benchmarks.serving            # a few minutes

Everything is one run on one machine: the client is a few hundred lines of asyncio in another process, and takes part of
the same cores. Texts are prompts of our own, one in a request unless said otherwise. Writes `serving.json` and
`serving.md` in `benchmarks/results`, or where `--out` says; ends with status 1 where a number does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from benchmarks.markdown import bare_table
from benchmarks.queueing import Service, simulate
from lec_guard import Batcher, LayerDetector, Step
from lec_guard.bench.machine import processor
from lec_guard.bench.prompts import Prompts
from lec_guard.detect.bundle import EMBEDDED, read_bundle
from lec_guard.detect.calling import Patience
from lec_guard.serve.api.keys import new_api_key

RESULTS = Path(__file__).parent / "results"
CLIENTS = 32
"""Requests in flight of a closed loop."""

THREADS = 1
"""Of a model, as in the container: HTTP and the clients here have the other core, and do not disturb."""

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the closed loop's throughput, at which measured and simulated latency are compared."""

WAITING = 256
"""What the server lets in under overload."""


@dataclass
class Load:
    """What came of a load.

    Attributes:
        seconds: How long it lasted.
        statuses: Status -> requests; 0 where the connection broke.
        latencies: Seconds that requests with status 200 took, from when they were due.
        retried: Requests that broke and were sent once more.
    """

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    retried: int = 0

    def report(self, texts: int = 1) -> dict[str, Any]:
        """Figures; latencies in milliseconds."""
        p50, p99 = np.percentile(self.latencies, [50, 99]) * 1000 if self.latencies else (float("nan"),) * 2
        return {
            "texts_per_s": self.statuses[200] * texts / self.seconds,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "p99_over_p50": float(p99 / p50),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "retried": self.retried,
        }


class Line:
    """A connection that stays open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> int:
        """The status of the answer; 0 where the connection broke."""
        try:
            if self._reader is not None and self._reader.at_eof():
                self.close()  # the server hung up while nothing was asked, as servers may
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            assert self._reader is not None  # noqa: S101 - opened with the writer
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            await self._reader.readexactly(int(length[1]) if length else 0)
            if b"connection: close" in head.lower():
                self.close()
            return int(head[9:12])
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def prompts(count: int = 400) -> list[str]:
    """Texts of 8 to 128 tokens."""
    own, rng = Prompts.of(read_bundle(EMBEDDED)), random.Random(0)  # noqa: S311 - repeatable
    return [own.text(rng.randint(8, 128)) for _ in range(count)]


def requests(key: str, texts: int) -> list[bytes]:
    """Requests as they go over the line."""
    own = prompts()
    made = []
    for at in range(len(own)):
        made.append(_request(key, [own[(at * texts + n) % len(own)] for n in range(texts)]))
    return made


def _request(key: str, texts: Sequence[str]) -> bytes:
    body = json.dumps({"steps": [{"text": text, "stage": "input"} for text in texts]}).encode()
    head = (
        f"POST /v1/check HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def closed(
    url: str, sent: Sequence[bytes], seconds: float, clients: int = CLIENTS, *, retry: bool = False
) -> Load:
    """So many clients that ask again as soon as they have their answer."""
    load, began = Load(), time.perf_counter()

    async def client(number: int) -> None:
        line, at = Line(url), number
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            status = await line.ask(sent[at % len(sent)])
            if not status and retry:
                load.retried += 1
                status = await line.ask(sent[at % len(sent)])
            load.statuses[status] += 1
            if status == 200:
                load.latencies.append(time.perf_counter() - start)
            at += clients
        line.close()

    await asyncio.gather(*map(client, range(clients)))
    load.seconds = time.perf_counter() - began
    return load


async def opened(url: str, sent: Sequence[bytes], seconds: float, rate: float) -> Load:
    """Requests that come at random, so many a second, whatever became of those before."""
    load, lines, running = Load(), list[Line](), set[asyncio.Task[None]]()
    rng = random.Random(0)  # noqa: S311 - a schedule
    began, due, at = time.perf_counter(), 0.0, 0

    async def one(request: bytes, start: float) -> None:
        line = lines.pop() if lines else Line(url)
        status = await line.ask(request)
        load.statuses[status] += 1
        if status == 200:
            load.latencies.append(time.perf_counter() - start)
        lines.append(line)

    while due < seconds:
        due += rng.expovariate(rate)
        wait = began + due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(sent[at % len(sent)], began + due))
        running.add(task)
        task.add_done_callback(running.discard)
        at += 1
    await asyncio.gather(*running)
    load.seconds = time.perf_counter() - began
    for line in lines:
        line.close()
    return load


def service_of(url: str, key: str, seconds: float) -> Service:
    """How long HTTP takes without a model (a text of nothing), and the model in batches, each measured by itself."""
    empty = [_request(key, [""])]
    http = asyncio.run(closed(url, empty, seconds)).report()["texts_per_s"]
    detector, own, batch = LayerDetector.load(), prompts(192), {}
    steps = [Step(stage="input", text=text) for text in own]
    for size in (64, 32, 16, 8, 4, 2, 1):  # the same texts each time: their lengths are most of the difference
        start = time.perf_counter()
        for at in range(0, len(steps), size):
            detector.score(steps[at : at + size])
        batch[size] = (time.perf_counter() - start) * size / len(steps)
    return Service(1 / http, batch)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def served(folder: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of its own process; its URL, and the process."""
    command = [sys.executable, "-m", "lec_guard.cli", "serve", "--api-keys", str(folder / "keys.yaml"), "--port", "0"]
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(  # noqa: S603 - this package
            [*command, *words],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(THREADS)},
        )
        try:
            assert server.stdout is not None  # noqa: S101 - it is a pipe
            line = server.stdout.readline()
            found = re.search(r"https?://\S+", line)
            if found is None:
                raise SystemExit((folder / "server.log").read_text())
            url = found[0]
            while not _is_ready(url):
                time.sleep(0.2)
            yield url, server
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)


def in_process(seconds: float) -> float:
    """Texts a second of the batcher alone, asked by as many threads."""
    batcher, own, counts = Batcher(LayerDetector.load()), prompts(), [0] * CLIENTS
    batcher.score([Step(stage="input", text=own[0])])
    began = time.perf_counter()

    def client(number: int) -> None:
        at = number
        while time.perf_counter() - began < seconds:
            batcher.score([Step(stage="input", text=own[at % len(own)])])
            counts[number] += 1
            at += CLIENTS

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - began
    batcher.close()
    return sum(counts) / taken


def resident_mb(pid: int) -> float:
    """Memory of a process and its children."""
    pids = [pid, *_children(pid)]
    total = 0
    for own in pids:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{own}/status").read_text())
        total += int(found[1]) if found else 0
    return total / 1024


@contextmanager
def memory_of(pid: int) -> Iterator[list[float]]:
    """Memory of a process and its children, second by second."""
    found, stop = [resident_mb(pid)], threading.Event()

    def look() -> None:
        while not stop.wait(1.0):
            found.append(resident_mb(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in text.split()]


def workers_of(pid: int) -> list[int]:
    """The processes that serve: children with a model in them."""
    return [one for one in _children(pid) if resident_mb(one) > 150]


async def killed(url: str, sent: Sequence[bytes], pid: int, seconds: float) -> dict[str, Any]:
    """A worker is killed under load, by clients that try once more."""
    before = workers_of(pid)
    task = asyncio.create_task(closed(url, sent, seconds, 8, retry=True))
    await asyncio.sleep(seconds / 4)
    os.kill(before[0], signal.SIGKILL)
    gone = time.perf_counter()
    back = float("nan")
    while not task.done():
        await asyncio.sleep(0.2)
        if np.isnan(back) and len(workers_of(pid)) == len(before) and before[0] not in workers_of(pid):
            back = time.perf_counter() - gone
    load = await task
    return {**load.report(), "another_worker_after_s": back}


def measure(seconds: float, overload_s: float) -> dict[str, Any]:
    """All of it."""
    import torch

    torch.set_num_threads(THREADS)
    report: dict[str, Any] = {"machine": processor(), "seconds": seconds, "overload_s": overload_s, "clients": CLIENTS}
    alone = in_process(seconds)
    report["in_process"] = {"texts_per_s": alone}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = new_api_key("load")
        (folder / "keys.yaml").write_text(f"keys:\n{made.entry}\n", encoding="utf-8")
        one, many = requests(made.key, 1), requests(made.key, 16)
        with served(folder, "--waiting", str(WAITING)) as (url, server):
            asyncio.run(closed(url, one, 2))
            report["closed"] = asyncio.run(closed(url, one, seconds)).report()
            report["closed_16"] = asyncio.run(closed(url, many, seconds, 8)).report(16)
            capacity = report["closed"]["texts_per_s"]
            report["open_70"] = asyncio.run(opened(url, one, seconds, 0.7 * capacity)).report()
            service = service_of(url, made.key, min(seconds, 5.0))
            report["service"] = {
                "http_ms": service.http * 1000,
                "batch_ms": {str(n): t * 1000 for n, t in service.batch.items()},
            }
            report["curve"] = [_compared(url, one, seconds, service, capacity * share) for share in SHARES]
            with memory_of(server.pid) as mb:
                report["overload"] = asyncio.run(opened(url, one, overload_s, 10 * capacity)).report()
            report["overload"]["mb"] = [mb[round(share * (len(mb) - 1))] for share in (0, 0.25, 0.5, 0.75, 1)]
            report["idle"] = asyncio.run(_idle(url, one, seconds))
        with served(folder, "--workers", "2") as (url, server):
            report["killed"] = asyncio.run(killed(url, one, server.pid, max(seconds, 20.0)))
    for name in ("closed", "closed_16"):
        report[name]["of_in_process"] = report[name]["texts_per_s"] / alone
    return report


def _compared(url: str, sent: Sequence[bytes], seconds: float, service: Service, rate: float) -> dict[str, float]:
    """A load, measured and simulated."""
    measured, said = asyncio.run(opened(url, sent, seconds, rate)).report(), simulate(service, rate)
    return {
        "rate": rate,
        "p50_ms": measured["p50_ms"],
        "p99_ms": measured["p99_ms"],
        "simulated_p50_ms": said.p50 * 1000,
        "simulated_p99_ms": said.p99 * 1000,
        "simulated_batch": said.mean_batch,
    }


async def _idle(url: str, sent: Sequence[bytes], seconds: float) -> dict[str, Any]:
    parts = urlsplit(url)
    idle = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(1_000)]
    load = await closed(url, sent, seconds)
    for _, writer in idle:
        writer.close()
    return load.report()


def misses(report: dict[str, Any]) -> list[str]:
    """What does not hold that has to, a line each.

    Args:
        report: What was measured.

    Returns:
        Nothing where all holds.
    """
    over, mb = report["overload"], report["overload"]["mb"]
    held = {
        "throughput through HTTP is at least 80% of the batcher's": report["closed"]["of_in_process"] >= 0.8,
        "p99 is below five times p50 at 70% load": report["open_70"]["p99_over_p50"] < 5,
        "under overload answers are 200 or 429": set(over["statuses"]) <= {"200", "429"},
        "what was let in is answered before clients give up": over["p99_ms"] < Patience().timeout_s * 1000,
        "memory is flat under overload, once it is warm": mb[-1] < 1.05 * mb[len(mb) // 2],
        "idle connections harm nobody": set(report["idle"]["statuses"]) == {"200"},
        "of a killed worker clients see their second try at most": set(report["killed"]["statuses"]) == {"200"},
        "a killed worker is replaced": not np.isnan(report["killed"]["another_worker_after_s"]),
    }
    return [what for what, holds in held.items() if not holds]


def page(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    rows = []
    for name, title in _TITLES.items():
        own = report[name]
        statuses = ", ".join(f"{status or 'broke'}: {count:,}" for status, count in own.get("statuses", {}).items())
        latency = f"{own['p50_ms']:.1f} / {own['p99_ms']:.1f}" if "p50_ms" in own else ""
        share = f"{own['of_in_process']:.0%}" if "of_in_process" in own else ""
        rows.append([title, f"{own['texts_per_s']:,.0f}", share, latency, statuses])
    over, dead = report["overload"], report["killed"]
    return _PAGE.format(
        table=bare_table(["load", "texts/s", "of the batcher alone", "p50 / p99 ms", "answers"], rows),
        ratio=report["open_70"]["p99_over_p50"],
        memory=", ".join(f"{mb:,.0f}" for mb in over["mb"]),
        deadline=Patience().timeout_s,
        longest=over["p99_ms"] / 1000,
        retried=dead["retried"],
        back=dead["another_worker_after_s"],
        curve=bare_table(
            ["requests/s", "p50 ms", "simulated", "p99 ms", "simulated", "texts of a batch"],
            [
                [
                    f"{one['rate']:,.0f}",
                    *(f"{one[key]:.1f}" for key in ("p50_ms", "simulated_p50_ms", "p99_ms", "simulated_p99_ms")),
                    f"{one['simulated_batch']:.1f}",
                ]
                for one in report["curve"]
            ],
        ),
        http=report["service"]["http_ms"],
        one=report["service"]["batch_ms"]["1"],
        many=report["service"]["batch_ms"]["64"] / 64,
        machine=report["machine"],
        clients=report["clients"],
        seconds=report["seconds"],
        overload=report["overload_s"],
    )


_TITLES = {
    "in_process": "the batcher alone, in process",
    "closed": "HTTP, closed loop",
    "closed_16": "the same, 16 texts in a request",
    "open_70": "open loop at 70% of the closed one",
    "overload": "open loop at ten times of it",
    "idle": "closed loop beside 1,000 idle connections",
    "killed": "2 workers, one killed (8 clients)",
}

_PAGE = """# `lec-guard serve` under load

    python -m benchmarks.serving --seconds {seconds:g} --overload {overload:g}

{machine}, two cores. {clients} clients, {seconds:g} s each. The model has one thread, here and in the batcher alone;
HTTP and the clients share the other core.

{table}

At 70% load p99 is {ratio:.1f} times p50. Under tenfold overload 99% of what was let in had its answer within
{longest:.1f} s (lec-guard's clients wait {deadline:g} s by default); memory in MB, quarter by quarter: {memory}.
Of the killed worker's requests {retried} broke and were sent once more; another worker served after {back:.1f} s.

Measured beside a simulation (`benchmarks/queueing.py`) that knows only how long HTTP takes without a model
({http:.2f} ms a request) and the model alone ({one:.2f} ms for one text, {many:.2f} ms for each of 64):

{curve}
"""


def main() -> None:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--overload", type=float, default=60.0, help="seconds of overload")
    arguments.add_argument("--out", type=Path, default=RESULTS)
    options = arguments.parse_args()
    report = measure(options.seconds, options.overload)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serving.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (options.out / "serving.md").write_text(page(report), encoding="utf-8")
    print(page(report))
    missed = misses(report)
    for what in missed:
        print(f"DOES NOT HOLD: {what}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
