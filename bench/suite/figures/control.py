# SPDX-License-Identifier: Apache-2.0
"""The management plane: endpoints a second, how long one takes, and what it costs as a VPC grows.

A real server process with its embedded store, real gRPC, and daemons that only count (bench/suite/fake_fleet.py). All
endpoints are in one network of one VPC.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Any

from bench.suite.fake_fleet import ATTACHED, BYTES, Fleet, fleet
from bench.suite.figure import Figure, Goal, Opener, Plan, Turn
from mizar.api.client import Client
from mizar.model.errors import MizarError

DROPLETS, CLIENTS = 20, 8
BATCH, LOADED, STEP = 500, 2000, 20_000
LIMIT_S, START_S, PAUSE_S = 120.0, 900.0, 0.02
ONE, BATCHES, MANY = "one at a time", f"batches of {BATCH}", f"{CLIENTS} clients, batches of {BATCH}"
MANY_ONE = f"{CLIENTS} clients, one at a time each"
P50, P99, BYTES_EACH, DROPLETS_EACH, MEMORY, RESTART = (
    "create to provisioned, p50", "create to provisioned, p99", "told to daemons, each endpoint",
    "droplets told of an endpoint", "memory of the server", "the server's start, until it answers",
)  # fmt: skip
SMALL, LARGE = "1,000 endpoints in the VPC", "100,000 endpoints in the VPC"


def manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    """Of the one tenant."""
    metadata = {"name": name} if kind in ("Tenant", "Droplet") else {"name": name, "tenant": "blue"}
    return {"apiVersion": "mizar/v1", "kind": kind, "metadata": metadata, "spec": spec}


class Site:
    """A server and its fleet; endpoints are numbered, and live on the droplets by turns."""

    def __init__(self, folder: Path, fleet_: Fleet) -> None:
        self.fleet, self.url = fleet_, f"unix://{folder}/server.sock"
        self._numbers, self._lock = count(), threading.Lock()
        self._folder = folder
        self.process = self._start()
        with self.client() as client:
            client.apply([*fleet_.droplets(), manifest("Tenant", "blue")])
            client.apply([manifest("VPC", "main", cidrs=["10.0.0.0/8"])])
            client.apply([manifest("Network", "front", vpc="main", cidrs=["10.0.0.0/9"])])

    def _start(self) -> subprocess.Popen[bytes]:
        """A server process, once it answers."""
        place, log_file = str(self._folder / "db"), self._folder / "server.log"
        command = [sys.executable, "-m", "mizar.cli.main", "server", "--db", place, "--listen", self.url]
        with log_file.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603
        end = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > end or process.poll() is not None:
                process.kill()
                process.wait()
                raise RuntimeError(f"the server does not answer: {log_file.read_text()[-300:]}")
            time.sleep(0.05)
        return process

    def end(self) -> None:
        """Ends the server."""
        self.process.terminate()
        self.process.wait()

    def restarted_s(self) -> float:
        """Seconds from the start of a new server over the same store until it answers."""
        self.end()
        begun = time.monotonic()
        self.process = self._start()
        return time.monotonic() - begun

    def _answers(self) -> bool:
        with suppress(MizarError), self.client() as client:
            return bool(client.health())
        return False

    def client(self) -> Client:
        """A connection; one for each thread."""
        return Client(self.url, timeout_s=120)

    def endpoints(self, number: int) -> list[dict[str, Any]]:
        """The next ones."""
        with self._lock:
            numbers = [next(self._numbers) for _ in range(number)]
        return [
            manifest(
                "Endpoint", f"e{one}", network="front", droplet=f"d{one % self.fleet.size}",
                workload={"namespace": f"e{one}"}, addresses=[str(IPv4Address("10.0.0.2") + one)],
            )
            for one in numbers
        ]  # fmt: skip

    def attached(self, number: int) -> None:
        """Waits until daemons have so many endpoints."""
        end = time.monotonic() + LIMIT_S
        while self.fleet.total(ATTACHED) < number:
            if time.monotonic() > end:
                raise RuntimeError(f"{self.fleet.total(ATTACHED)} of {number} endpoints after {LIMIT_S} s")
            time.sleep(0.002)

    def provisioned(self, client: Client, name: str) -> None:
        """Asks now and then until one endpoint is there. Who asks without a pause takes the server's time."""
        end = time.monotonic() + LIMIT_S
        while client.get("Endpoint", name, "blue")["status"]["phase"] != "Provisioned":
            if time.monotonic() > end:
                raise RuntimeError(f"endpoint {name} is not provisioned after {LIMIT_S} s")
            time.sleep(PAUSE_S)

    def load(self, number: int, clients: int = 1, batch: int = BATCH) -> float:
        """Endpoints a second, until the last of them is attached and told to be."""
        begun, before = time.monotonic(), self.fleet.total(ATTACHED)
        batches = [self.endpoints(min(batch, number - done)) for done in range(0, number, batch)]

        def work(own: list[list[dict[str, Any]]]) -> None:
            with self.client() as client:
                for one in own:
                    client.apply(one)
                for one in own[-1:]:
                    self.provisioned(client, one[-1]["metadata"]["name"])

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(work, [batches[place::clients] for place in range(clients)]))
        self.attached(before + number)
        return number / (time.monotonic() - begun)

    def each(self, number: int) -> dict[str, float]:
        """One endpoint after the other: how long, what is told, and to how many."""
        took_ms, told, bytes_before = [], [], self.fleet.total(BYTES)
        with self.client() as client, self.client() as listener:
            news = listener.watch(LIMIT_S)
            next(news)  # it is told of everything from here on
            for one in self.endpoints(number):
                before, begun = self.fleet.messages(), time.monotonic()
                client.apply([one])
                heard(news, one["metadata"]["name"])
                took_ms.append((time.monotonic() - begun) * 1000)
                told.append(self.fleet.told(before))
        return {
            ONE: 1000 / statistics.mean(took_ms),
            P50: statistics.median(took_ms),
            P99: sorted(took_ms)[number * 99 // 100],
            BYTES_EACH: (self.fleet.total(BYTES) - bytes_before) / number,
            DROPLETS_EACH: statistics.mean(told),
        }

    def memory_mb(self) -> float:
        """Of the server, resident."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1000


def heard(news: Iterator[dict[str, Any]], name: str) -> None:
    """Listens until an endpoint is told to be provisioned."""
    for change in news:
        found = change.get("object")
        if found and found["metadata"]["name"] == name and found["status"]["phase"] == "Provisioned":
            return
    raise RuntimeError(f"endpoint {name} is not provisioned after {LIMIT_S} s")


def with_endpoints(sizes: Mapping[str, int]) -> Opener:
    """The set-up of a figure: one server for each number of endpoints."""

    @contextmanager
    def open_(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
        with ExitStack() as stack:
            turns: dict[str, Turn | str] = {}
            for name, size in sizes.items():
                if plan.quick and size > 10_000:
                    turns[name] = "left out of a quick run"
                    continue
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                site = Site(folder, stack.enter_context(fleet(folder, DROPLETS)))
                stack.callback(site.end)
                for done in range(0, size, STEP):
                    site.load(min(STEP, size - done), batch=1000)
                turns[name] = lambda site=site: turn(site, plan)  # type: ignore[misc]
            yield turns

    return open_


def turn(site: Site, plan: Plan) -> dict[str, float]:
    """Everything once; what was created stays."""
    number = plan.pick(500, LOADED)
    told = site.each(plan.pick(50, 200))
    told[BATCHES] = site.load(number)
    told[MANY] = site.load(number * 2, clients=CLIENTS)
    told[MANY_ONE] = site.load(plan.pick(80, 400), clients=CLIENTS, batch=1)
    told[MEMORY] = site.memory_mb()
    told[RESTART] = site.restarted_s()
    return told


UNITS = {P50: "ms", P99: "ms", BYTES_EACH: "bytes", DROPLETS_EACH: "droplets", MEMORY: "MB", RESTART: "s"}
NOT_SHOWN = (
    "what daemons do, and a machine of its own for the server: clients and daemons share its CPUs. Each of eight "
    "clients applies its batches one after the other and then asks, fifty times a second, whether the last is there; "
    "who creates one at a time listens to `GET /v1/watch`."
)
TITLE = "The management plane: one server, embedded store, 20 daemons that only count"
FIGURES = (
    Figure(
        "control-plane",
        TITLE,
        "endpoints/s",
        with_endpoints({SMALL: 1_000, LARGE: 100_000}),
        NOT_SHOWN + " A million endpoints are `control-plane-million`: to create them takes as long as all the rest.",
        floor="Python of the server: an endpoint is some 600 calls of functions (1,140 once) for checks, allocation, "
        "planning, the store's row and the messages, 0.25 to 0.35 ms together and spread evenly: a third for the "
        "planner and its facts, a fifth for the checks, a seventh for SQLite. Looking for cycles among what stays "
        "(`mizar/api/garbage.py`) took a third more, and takes a twentieth. Clients and daemons take a tenth each. "
        "Requests of one endpoint each wait for the disk, those of several clients for one turn of it "
        "(`mizar/manager/durable.py`), and for HTTP, which costs 1 ms a request",
        units=UNITS,
        goals=(
            Goal("endpoints provisioned per second, one manager, embedded store", "nobody publishes one", MANY, 2000,
                 most=False, contender=LARGE),
        ),
        rounds=2,
        limit_s=420,
    ),
    Figure(
        "control-plane-million",
        TITLE,
        "endpoints/s",
        with_endpoints({"1,000,000 endpoints in the VPC": 1_000_000}),
        NOT_SHOWN,
        units=UNITS,
        rounds=1,
        alone=True,
        limit_s=3600,
    ),
)  # fmt: skip
