# SPDX-License-Identifier: Apache-2.0
"""What tc does otherwise than the description says: printed with the rules. Called by `compile`."""

from __future__ import annotations

from mizar.pipeline.tc.lowering import Resources

_ALWAYS = (
    "a tenant without --tenant, table or nat rule has no filter: its frames are dropped and counted",
    "flower does not check lengths, and looks behind IPv6 extension headers; what conntrack finds broken is invalid",
)
_TUNNELS = (
    "tunnels are taken off by the kernel: it drops outer headers that are not for this host's addresses or are broken",
    "Geneve's options are taken off unread, critical ones too",
    "a frame is counted without the tunnel that tc takes off before, or puts on behind",
)
_TRACKS = (
    "states are the kernel's: set net.netfilter.nf_conntrack_tcp_loose=0 and net.netfilter.nf_conntrack_checksum=0",
    "fragments are put together at conntrack, first ones are found by protocol alone",
)
_ALLOCATES = "new translations are the kernel's choice: other ports, a pool not paired, time-outs by sysctl, no hairpin"


def notes(found: Resources, tracks: bool, allocates: bool) -> tuple[str, ...]:
    """Sentences, in order."""
    several = (*_ALWAYS, *(_TUNNELS if found.vteps else ()), *(_TRACKS if tracks else ()))
    return (*several, _ALLOCATES) if allocates else several
