# SPDX-License-Identifier: Apache-2.0
"""Which queueing disciplines an interface has. Called by the daemon's programs. It must never change one: they are the
host's."""

from __future__ import annotations

from pyroute2.netlink.rtnl.tcmsg import tcmsg

from mizar.kernel.netlink import Netlink

_RTM_GETQDISC = 38
_ROOT = 0xFFFFFFFF


def keeps_departure_times(ifindex: int) -> bool:
    """Whether all that leaves by an interface waits for its time (`skb->tstamp`): its queue is fq, or all are."""
    with Netlink() as netlink:
        answers = netlink.ask(tcmsg(), _RTM_GETQDISC, "list the queueing disciplines", dump=True)
    found = [(one["parent"], one.get_attr("TCA_KIND")) for one in answers if one["index"] == ifindex]
    root = next((kind for parent, kind in found if parent == _ROOT), None)
    inner = [kind for parent, kind in found if parent not in (_ROOT, 0) and parent >> 16 != _ROOT >> 16]
    return root == "fq" or (root in ("mq", "mqprio") and bool(inner) and all(kind == "fq" for kind in inner))
