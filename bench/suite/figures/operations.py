# SPDX-License-Identifier: Apache-2.0
"""What happens around traffic: daemons that come and go, hosts that die, endpoints that are made and ended."""

from __future__ import annotations

import signal
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bench import attach, failover, functions
from bench.suite.figure import Figure, Goal, Opener, Plan, Turn
from bench.suite.leftovers import prefix
from mizar.kernel.attach import attached
from mizar.kernel.bpffs import Pins
from tests.transit.rig import Droplet, Rig, until
from tests.transit.test_life import Stream
from tests.transit.test_traffic import two_droplets
from tests.transit.traffic import ping

TIMES = 2
SENT, LOST, REPLACED = "datagrams sent", "datagrams lost", "programs replaced"


@contextmanager
def rigged() -> Iterator[Rig]:
    """A rig that is known as this run's."""
    with tempfile.TemporaryDirectory() as folder:
        made = Rig(Path(folder), prefix())
        try:
            yield made
        finally:
            made.close()


def programs(droplet: Droplet) -> set[tuple[str, int]]:
    """What is attached for good: the pins of links, and the numbers of their programs."""
    found = set()
    for pin in Pins.of(droplet.name).links.iterdir():
        with suppress(OSError):
            link = attached(pin)
            if link is not None:
                found.add((pin.name, link.program_id))
    return found


@contextmanager
def restarts(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """A stream through two droplets; their daemons end, and new ones load the programs anew."""
    with rigged() as made:
        one, two, first, second = two_droplets(made)
        until(lambda: ping(second, "10.0.1.11") is not None, "the first answer")

        def turn(how: signal.Signals) -> dict[str, float]:
            stream, replaced = Stream(second, first, "10.0.1.11"), 0
            stream.start()
            for _ in range(plan.pick(1, TIMES)):
                before = programs(one) | programs(two)
                for droplet in (one, two):
                    droplet.stop(how)
                    droplet.upgrade()
                goes_on(stream)
                made.start_all()
                goes_on(stream)
                replaced += len((programs(one) | programs(two)) - before)
            lost = len(stream.missing())
            return {SENT: stream.sent, LOST: lost, REPLACED: replaced}

        yield {
            "daemons killed, new ones started": lambda: turn(signal.SIGKILL),
            "daemons ended, new ones started": lambda: turn(signal.SIGTERM),
        }


def goes_on(stream: Stream) -> None:
    """Until the stream has sent some more."""
    before = stream.sent
    until(lambda: stream.sent > before + 50, "traffic goes on")


@contextmanager
def failures(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """The tunnels take turns, each in a rig of its own."""

    def turn(tunnel: str) -> dict[str, float]:
        return {what: ms for what, (ms, _limit) in failover.measured(tunnel, rigged, direct_only=plan.quick).items()}

    turns: dict[str, Turn | str] = {name: lambda name=name: turn(name) for name in failover.TUNNELS}  # type: ignore[misc]
    if plan.quick:
        turns["vxlan"] = "left out of a quick run"
    yield turns


@contextmanager
def attachments(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """The kinds of workload take turns, on one droplet."""
    number = plan.pick(10, 100)
    with rigged() as made:
        one, places = attach.droplet(made, number)

        def turn(kind: str) -> dict[str, float]:
            attached_ms, detached_ms = attach.measured(one, places, kind)
            return spread("attach", attached_ms) | spread("detach", detached_ms)

        yield {kind: lambda kind=kind: turn(kind) for kind in attach.KINDS}  # type: ignore[misc]


def spread(what: str, times_ms: list[float]) -> dict[str, float]:
    """The median, and the worst of a hundred."""
    ordered = sorted(times_ms)
    worst = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return {f"{what}, p50": statistics.median(ordered), f"{what}, p99": worst}


@contextmanager
def changes(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """All three are measured in one go; the first one's turn does it."""
    taken: dict[str, list[dict[str, float]]] = {}

    def turn(what: str) -> dict[str, float]:
        if what == functions.CHANGES[0]:
            taken.update(functions.measured(plan.pick(3, 20)))
        return {step: statistics.median(row[step] for row in taken[what]) for step in functions.STEPS}

    yield {what: lambda what=what: turn(what) for what in functions.CHANGES}  # type: ignore[misc]


def _figure(name: str, title: str, open_: Opener, not_shown: str, rounds: int = 3) -> Figure:
    return Figure(name, title, "ms", open_, not_shown, rounds=rounds)


FIGURES = (
    Figure(
        "restarts",
        "Datagrams lost while the daemons of two droplets end and new ones replace all programs",
        "datagrams",
        restarts,
        "a change of the tables' shape, which is refused while the old ones are in use. A datagram every half "
        "millisecond, of which each bears a number.",
        units={REPLACED: "programs"},
        goals=tuple(
            Goal(f"packets lost over daemon restart and program upgrade ({how})", "up to seconds elsewhere", LOST, 0,
                 contender=f"daemons {how}, new ones started", worst=True)
            for how in ("killed", "ended")
        ),
        rounds=2,
    ),
    _figure("failover", "How long flows stand still when a droplet dies, and until a path is direct", failures,
            "a whole host that dies: its wire is cut. All daemons share the CPUs of the machine.", rounds=1),
    _figure("attach", "Attach and Detach, as a daemon measures it", attachments,
            "the management plane (`first-packet`). A hundred of each kind, in one round.", rounds=1),
    _figure("function-change", "Loading, replacing and unloading a network function at a droplet, by step", changes,
            "compiling it. `locked` is the part for which other changes of tables wait; 20 ms of `finish` are the time "
            "that packets under way get."),
)  # fmt: skip
