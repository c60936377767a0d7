# SPDX-License-Identifier: Apache-2.0
"""How large the programs are, what the verifier makes of them, and the memory of a droplet's empty tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.suite.figure import Figure, Plan, Turn
from bench.suite.figures.memory import allocated
from mizar.kernel import libbpf
from mizar.kernel.configuration import configuration
from mizar.kernel.programs import load

FOUR, SIX = b"\xc0\0\x02\x01", bytes.fromhex("20010db8") + bytes(11) + b"\x01"
SUBSTRATES = {"IPv4 substrate": (FOUR,), "IPv6 substrate": (SIX,), "both families": (FOUR, SIX)}
NAMES = ("agent", "transit", "deliver", "proxy", "substrate", "shaped")
PROCESSED, TIME, LENGTH, TABLES = "verifier looked at", "verifier's time", "instructions", "all tables, empty"
MEMORY, ALONE = "its tables, empty", "of them no other program's"


def measured(addresses: tuple[bytes, ...]) -> dict[str, float]:
    """All programs, loaded once as a daemon loads them."""
    config = configuration(
        addresses, b"\x02\0\0\0\0\x01", 1, send_by_tc=False, icmp_errors=100, traps=16, pace_ns=10**9, uplink=True
    )
    told: dict[str, float] = {}
    time_ms = 0.0
    with load(config, statistics=True) as programs:
        sizes = {libbpf.info("map", fd).id: allocated(fd) / 1e6 for fd in programs.maps.values()}
        used = {name: libbpf.map_ids(program.fd) & set(sizes) for name, program in programs.programs.items()}
        for name, program in programs.programs.items():
            found = re.search(r"verification time (\d+)", program.statistics)
            time_ms += int(found[1]) / 1000 if found else 0
            if name in NAMES:
                looked = re.search(r"processed (\d+) insns", program.statistics)
                told[f"{name}: {LENGTH}"] = libbpf.info("prog", program.fd).xlated_prog_len / 8
                told[f"{name}: {PROCESSED}"] = float(looked[1]) if looked else 0.0
                others = set().union(*(ids for other, ids in used.items() if other != name))
                told[f"{name}: {MEMORY}"] = sum(sizes[one] for one in used[name])
                told[f"{name}: {ALONE}"] = sum(sizes[one] for one in used[name] - others)
        told[f"all programs: {TIME}"] = time_ms
        told[TABLES] = sum(sizes.values())
    return told


@contextmanager
def opened(_plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """Each kind of substrate."""
    yield {name: lambda addresses=addresses: measured(addresses) for name, addresses in SUBSTRATES.items()}  # type: ignore[misc]


FIGURES = (
    Figure(
        "sizes",
        "How large the programs and their tables are, and what the verifier makes of them",
        "instructions",
        opened,
        "network functions, which bring their own, and tables as they fill (`memory`). The verifier gives up at a "
        "million instructions; its time is nearly all that a daemon's start takes. Tables have the sizes that a daemon "
        "gives them; hash tables take their memory as they fill, arrays at once. Most tables are shared: what programs "
        "use together is counted for each.",
        units={f"all programs: {TIME}": "ms", TABLES: "MB"}
        | {f"{name}: {memory}": "MB" for name in NAMES for memory in (MEMORY, ALONE)},
        rounds=3,
    ),
)
