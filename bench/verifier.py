#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shows what the kernel's verifier makes of each program: how much it has to look at, for how long, and the stack.

    python bench/verifier.py          (as root)

One line per program and configuration: families of the substrate, and whether `deliver` sends (config.send_by_tc).
The verifier gives up at a million instructions, and older kernels see fewer of the ways that meet again; its time is
what a daemon's start takes. `stack` has the frames of a program's functions: those that call one another share 512
bytes.
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mizar.kernel.configuration import configuration  # noqa: E402
from mizar.kernel.programs import load  # noqa: E402

ADDRESSES = {"4": b"\xc0\0\x02\x01", "6": bytes.fromhex("20010db8") + bytes(11) + b"\x01"}
MAC = b"\x02\0\0\0\0\x01"
FIGURES = {
    "processed": r"processed (\d+) insns",
    "states": r"total_states (\d+)",
    "usec": r"verification time (\d+)",
    "stack": r"stack depth ([\d+]+)",
}


def main() -> None:
    """Loads everything, once per configuration."""
    print(f"{'families':<9}{'by tc':<6}{'program':<16}{'processed':>10}{'states':>8}{'ms':>7}  stack")
    for families, by_tc in itertools.product(("4", "6", "46"), (False, True)):
        config = configuration(
            [ADDRESSES[family] for family in families],
            MAC,
            1,
            send_by_tc=by_tc,
            icmp_errors=100,
            traps=16,
            pace_ns=10**9,
            uplink=True,
        )
        milliseconds = 0.0
        with load(config, statistics=True) as programs:
            _ = programs.transit_generic  # loaded only where it is asked for
            for name, program in programs.programs.items():
                found = {key: re.search(form, program.statistics) for key, form in FIGURES.items()}
                figure = {key: match[1] if match else "?" for key, match in found.items()}
                took = float(figure["usec"]) / 1000
                milliseconds += took
                print(f"{families:<9}{by_tc!s:<6}{name:<16}{figure['processed']:>10}{figure['states']:>8}{took:>7.0f}"
                      f"  {figure['stack']}")  # fmt: skip
        print(f"{families:<9}{by_tc!s:<6}{'all':<16}{'':>18}{milliseconds:>7.0f}")


if __name__ == "__main__":
    main()
