#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures how much memory a bouncer needs for the endpoints of one VPC.

    python bench/memory.py [--endpoints N] [-o json]          (as root; needs what the build makes)

The table `endpoints` is loaded as a daemon loads it and filled in batches, as many entries as there are addresses. What
the kernel has allocated for it is read before and after (`memlock` in the map's fdinfo); the network, hop sets and
counters of a VPC do not grow with its endpoints.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.dataplane.plan import BOUNCER, FRONT, HOST, ME, RED  # noqa: E402
from tests.dataplane.testbed import SIZES, Testbed  # noqa: E402

LIMIT_BYTES = 200_000_000
"""For a million endpoints."""


def allocated(fd: int) -> int:
    """Bytes that the kernel has allocated for a map."""
    lines = (line.split() for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == "memlock:")


def entries(count: int) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Endpoints of FRONT, on HOST, one address each."""
    for number in range(count):
        key = {"vni": RED.vni, "addr": bytes(10) + b"\xff\xff" + (0x0A000000 + number).to_bytes(4, "big")}
        mac = b"\x02\0" + number.to_bytes(4, "big")
        yield key, {"droplet": HOST.slot, "vpc_slot": RED.slot, "network": FRONT.slot, "mac": mac, "tunnel": 1}


def main() -> int:
    """Print what was measured; exit 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", type=int, default=1_000_000, help="addresses that the bouncer knows")
    parser.add_argument("-o", choices=("text", "json"), default="text", dest="output")
    arguments = parser.parse_args()
    SIZES["endpoints"] = 1 << 20 if arguments.endpoints <= 1 << 20 else arguments.endpoints
    testbed = Testbed()
    try:
        testbed.droplets(ME, BOUNCER, HOST)
        testbed.vpc(RED, BOUNCER)
        testbed.network(FRONT, ME)
        fd = testbed.programs.maps["endpoints"]
        empty, began = allocated(fd), time.monotonic()
        written = testbed.tables.endpoints.put_many(entries(arguments.endpoints))
        took_s, full = time.monotonic() - began, allocated(fd)
    finally:
        testbed.close()
    found = {
        "endpoints": written,
        "bytes": full,
        "bytesEmpty": empty,
        "bytesPerEndpoint": round((full - empty) / max(1, written), 1),
        "limitBytes": LIMIT_BYTES * written // 1_000_000,
        "seconds": round(took_s, 1),
    }
    if arguments.output == "json":
        print(json.dumps(found))
    else:
        print(
            f"{written} endpoints of one VPC: {full / 1e6:.1f} MB ({empty / 1e6:.1f} MB of them for the empty table),"
        )
        print(f"{found['bytesPerEndpoint']} bytes each, filled in {took_s:.1f} s. Limit: {LIMIT_BYTES / 1e6:.0f} MB.")
    return 0 if full <= max(LIMIT_BYTES, int(found["limitBytes"])) else 1


if __name__ == "__main__":
    sys.exit(main())
