# SPDX-License-Identifier: Apache-2.0
"""What loading, replacing and unloading a function takes at a droplet, by step, and how long other work waits.

Run as root: .venv/bin/python bench/functions.py [--rounds 40]. The example `blocklist`, at two stages (three programs:
one of them has two hooks), through the daemon's own functions over the programs of a droplet. `locked` is the part for
which the lock of the tables is held: endpoints and all other changes wait for it. The 20 ms until packets under way
have left are in `finish`, where something is replaced or unloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from mizar._built import transit_pb2 as pb
from mizar.functions.build import build
from mizar.kernel.bpffs import Pins
from mizar.kernel.layout import constant
from mizar.transit.functions import Functions
from mizar.transit.state import Limits, State
from tests.dataplane.testbed import Testbed

SOURCE = Path(__file__).parents[1] / "examples" / "functions" / "blocklist" / "blocklist.c"
STAGES = (constant("ENDPOINT_INGRESS_STAGE"), constant("ON_XDP_TX"))
STEPS = ("prepare", "locked", "finish", "all")
CHANGES = ("load", "replace", "unload")


def variants(folder: Path) -> list[pb.Function]:
    """Two versions, which differ in a reason's words."""
    found = []
    for version in range(2):
        source = folder / str(version) / SOURCE.name
        source.parent.mkdir()
        source.write_text(SOURCE.read_text().replace('."', f' {version}."', 1))
        data = build(source).read_bytes()
        scopes = [pb.FunctionScope(droplet=True)]
        digest = hashlib.sha256(data).digest()
        found.append(pb.Function(name="blocklist", object=data, digest=digest, scopes=scopes, stages=STAGES))
    return found


def timed(functions: Functions, state: State, *wanted: pb.Function) -> dict[str, float]:
    """One change, in milliseconds by step."""
    marks = [time.perf_counter()]
    change = functions.prepare(pb.SetFunctionsRequest(functions=wanted))
    assert not isinstance(change, pb.SetFunctionsReply)
    marks.append(time.perf_counter())
    functions.put(change, state)
    marks.append(time.perf_counter())
    functions.finish(change)
    marks.append(time.perf_counter())
    spans = [(b - a) * 1e3 for a, b in itertools.pairwise(marks)]
    return dict(zip(STEPS, [*spans, sum(spans)], strict=True))


def measured(rounds: int) -> dict[str, list[dict[str, float]]]:
    """By change, what each round took."""
    pins = Pins.of(f"bench-functions-{os.getpid()}")
    taken: dict[str, list[dict[str, float]]] = {change: [] for change in CHANGES}
    with tempfile.TemporaryDirectory(prefix="mizar-bench-") as name, closing(Testbed()) as droplet:
        folder = Path(name)
        first, second = variants(folder)
        pins.make()
        functions = Functions(droplet.programs.maps, pins, folder / "told", generic=False)
        state = State(bytes(16), Limits())
        try:
            functions.restore(state)
            timed(functions, state, first)  # the process that loads is there from here on
            timed(functions, state)
            for _ in range(rounds):
                for change, wanted in zip(CHANGES, ((first,), (second,), ()), strict=True):
                    taken[change].append(timed(functions, state, *wanted))
        finally:
            functions.close()
            pins.remove()
    return taken


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    print(f"{'ms, median / worst of ' + str(rounds):<28}" + "".join(f"{step:>18}" for step in STEPS))
    for what, rows in measured(rounds).items():
        cells = (f"{median(row[step] for row in rows):.1f} / {max(row[step] for row in rows):.1f}" for step in STEPS)
        print(f"{what:<28}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
