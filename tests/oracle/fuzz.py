# SPDX-License-Identifier: Apache-2.0
"""The long run: `./run fuzz --minutes N [--seed S]`. Rounds of random cases on all cores, until time is out or one
differs; then the smallest case that Hypothesis finds, and the command that repeats its round.

A round is named by its seed: S, S+1, S+2 and so on. The same seed gives the same round on any machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from functools import cache
from multiprocessing.queues import Queue

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.oracle import policed
from tests.oracle.differential import Case, cases, check_case
from tests.oracle.proxied import arrivals, carriers
from tests.oracle.real_fleet import Journey, RealFleet, whole_journeys
from tests.oracle.real_proxies import run
from tests.oracle.substrates import SUBSTRATES, loaded

CASES, VARIANTS = 250, 30
WAY = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
Result = tuple[int, Counter[str], str]
"""Seed, how packets ended, and what went wrong, if anything did."""


class Loaded:
    """What a process has loaded, once each."""

    def __init__(self) -> None:
        self.droplet, self.fleet = cache(loaded), cache(RealFleet)


def run_round(kernel: Loaded, number: int) -> Result:
    """All cases of one seed. Of four rounds one walks over planned fleets, one tries proxied endpoints, one policed
    ones, and one single droplets; rounds go through the substrates."""
    ended: Counter[str] = Counter()
    substrate = SUBSTRATES[number // 4 % len(SUBSTRATES)]

    @given(cases(substrate=substrate))
    def droplets(case: Case) -> None:
        ended.update(
            outcome.reason or outcome.verdict.name for outcome in check_case(kernel.droplet(substrate), case, VARIANTS)
        )

    @given(whole_journeys(substrate))
    def fleets(journey: Journey) -> None:
        ended.update(way.reason or way.end.name for way in kernel.fleet(substrate).check(journey))

    @given(st.data())
    def proxies(data: st.DataObject) -> None:
        here = data.draw(carriers())
        run(kernel.droplet("ipv4"), here, data.draw(st.lists(arrivals(here), min_size=1, max_size=24)), ended)

    @given(st.data())
    def policies(data: st.DataObject) -> None:
        policed.run(kernel.droplet("ipv4"), data.draw(policed.policed_droplets()), data.draw(policed.stories), ended)

    kind = (fleets, droplets, proxies, policies)[number % 4]
    try:
        seed(number)(WAY(kind))()
    except AssertionError:
        return number, ended, traceback.format_exc()
    return number, ended, ""


def worker(seeds: Sequence[int], until: float, results: Queue[Result | None]) -> None:
    """One process: its rounds, one after the other, while there is time; then None."""
    os.nice(5)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends all of them
    try:
        kernel = Loaded()
        for number in seeds:
            if time.monotonic() > until:
                break
            try:
                results.put(run_round(kernel, number))
            except Exception as error:
                error.add_note(f"in the round of seed {number}")
                raise
    finally:
        results.put(None)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("./run fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="how long (5); with --rounds: at most")
    parser.add_argument("--seed", type=int, help="of the first round (random)")
    parser.add_argument("--rounds", type=int, default=1 << 40, help="how many rounds (as many as time allows)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when anything differs."""
    options = parse(arguments)
    first = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    cores = min(os.cpu_count() or 1, options.rounds)
    print(f"fuzz: seed {first}, {cores} processes", flush=True)
    until = time.monotonic() + 60 * options.minutes
    results: Queue[Result | None] = multiprocessing.Queue()
    shares = [range(first + core, first + options.rounds, cores) for core in range(cores)]
    workers = [multiprocessing.Process(target=worker, args=(share, until, results)) for share in shares]
    for each in workers:
        each.start()
    try:
        same = collect(results, cores)
    except KeyboardInterrupt:
        print("fuzz: interrupted")
        same = False
    for each in workers:
        if not same:
            each.terminate()
        each.join()
    if same and any(each.exitcode for each in workers):
        print("fuzz: a process ended early, for the reason above")
        return 1
    return 0 if same else 1


def collect(results: Queue[Result | None], running: int) -> bool:
    """Shows how it goes, until all processes are through or a round differs; False: one does."""
    ended: Counter[str] = Counter()
    begun = shown = time.monotonic()
    rounds = 0
    while running:
        result = results.get()
        if result is None:
            running -= 1
            continue
        number, found, problem = result
        if problem:
            print(f"{problem}\nfuzz: round {number} differs; repeat it with ./run fuzz --rounds 1 --seed {number}")
            return False
        ended += found
        rounds += 1
        if time.monotonic() > shown + 60:
            shown = time.monotonic()
            print(f"fuzz: {ended.total():,} packets in {rounds} rounds, {(shown - begun) / 60:.0f} minutes", flush=True)
    print("fuzz: how they ended:", ", ".join(f"{name} {count:,}" for name, count in ended.most_common()))
    print(f"fuzz: {ended.total():,} packets in {rounds} rounds of {CASES} cases, none differs")
    return True


if __name__ == "__main__":
    sys.exit(main())
