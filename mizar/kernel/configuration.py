# SPDX-License-Identifier: Apache-2.0
"""The constant configuration of a droplet's programs: struct droplet_config of contracts/dataplane.h.

Called by whoever loads the programs. A droplet has one address on the substrate, or one of each family.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from mizar.kernel.layout import constant, struct
from mizar.model.addresses import to_mapped
from mizar.model.errors import InvalidError


def configuration(
    addresses: Iterable[bytes],
    mac: bytes,
    ifindex: int,
    *,
    send_by_tc: bool,
    icmp_errors: int = 0,
    traps: int = 0,
    pace_ns: int = 0,
    uplink: bool = False,
) -> bytes:
    """Bytes of struct droplet_config. `addresses`: of 4 or 16 bytes, at most one of each size. Raises InvalidError.

    `icmp_errors`: how many ICMP errors the virtual router sends at most per CPU, VPC and 134 ms.
    `traps`: how many requests for its configuration an endpoint has answered in 1.07 s.
    `pace_ns`: how late the interface's fq may send what is over a limit; 0: it is no fq, and that is dropped.
    `uplink`: the interface has a limiter of its own (LIMITER_UPLINK).
    """
    given = tuple(addresses)
    found = {len(address): address for address in given}
    if not found or len(found) != len(given) or not found.keys() <= {4, 16}:
        raise InvalidError("a droplet has one address, or one of each family")
    families = (4 in found and constant("SUBSTRATE_IPV4")) | (16 in found and constant("SUBSTRATE_IPV6"))
    return struct(
        "droplet_config",
        addr4=to_mapped(found[4]) if 4 in found else bytes(16),
        addr6=found.get(16, bytes(16)),
        mac=mac,
        families=families,
        mark=mark_of(found.get(4) or found[16]),
        ifindex=ifindex,
        send_by_tc=send_by_tc,
        icmp_errors=icmp_errors,
        traps=traps,
        pace_ns=pace_ns,
        uplink=uplink,
    )


def mark_of(address: bytes) -> int:
    """What a droplet signs its notes with: the same for the same droplet, whatever runs there."""
    return int.from_bytes(hashlib.blake2b(address, digest_size=4).digest(), "big")
