# SPDX-License-Identifier: Apache-2.0
"""tc ingress without tcx (kernels before 6.6): a clsact qdisc and a direct-action filter.

Called by attach alone. A filter has no link that could be pinned: it stays until it is deleted or its interface
vanishes, and its name tells whose it is. It must never remove the qdisc, which others may use as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pyroute2.netlink.rtnl.tcmsg import tcmsg

from mizar.kernel.netlink import CREATE, EXCL, REPLACE, Message, Netlink, Order
from mizar.model.errors import ConflictError, InvalidError, NotFoundError

_RTM_NEWQDISC, _RTM_NEWTFILTER, _RTM_DELTFILTER, _RTM_GETTFILTER = 36, 44, 45, 46
_CLSACT, _INGRESS, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFF0000  # TC_H_CLSACT, TC_H_MAKE(., MIN_INGRESS)
_PRIORITY = 0x4D5A  # "MZ": one filter of ours per interface
_ETH_P_ALL_BE = 0x0300
_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT


def attach(fd: int, ifindex: int, name: str) -> bool:
    """Attaches the program as a filter, or replaces the filter's program atomically. Returns whether it was there."""
    with Netlink() as netlink:
        present = set(_filters(netlink, ifindex))
        if present and name not in present:
            raise ConflictError(f"interface {ifindex} has the tc filter {', '.join(present)} at priority {_PRIORITY}")
        if not present:
            with contextlib.suppress(ConflictError):  # somebody has added it before, for this purpose or another
                netlink.tell([_qdisc_order(ifindex, "clsact")])
        netlink.tell([_filter_order(fd, ifindex, name, REPLACE if present else EXCL)])
        return bool(present)


def guard(fd: int, ifindex: int, name: str) -> bool:
    """The same, quickly, for an interface that was just made, where the filter will not stay: below it is an ingress
    qdisc, because a clsact also has all packets on their way out looked at."""
    try:
        with Netlink() as netlink:
            netlink.tell([_qdisc_order(ifindex, "ingress"), _filter_order(fd, ifindex, name, EXCL)])
    except ConflictError:  # it was not: one of both was there
        return attach(fd, ifindex, name)
    return False


def _qdisc_order(ifindex: int, kind: str) -> Order:
    order = tcmsg()
    order["index"], order["handle"], order["parent"] = ifindex, _CLSACT_HANDLE, _CLSACT
    order["attrs"] = [("TCA_KIND", kind)]
    return order, _RTM_NEWQDISC, CREATE | EXCL, f"add {kind} to interface {ifindex}"


def _filter_order(fd: int, ifindex: int, name: str, flags: int) -> Order:
    order = _message(ifindex)
    order["handle"] = 1
    options = [("TCA_BPF_FD", fd), ("TCA_BPF_NAME", name), ("TCA_BPF_FLAGS", _DIRECT_ACTION)]
    order["attrs"] = [("TCA_KIND", "bpf"), ("TCA_OPTIONS", {"attrs": options})]
    return order, _RTM_NEWTFILTER, CREATE | flags, f"add the tc filter {name} to interface {ifindex}"


def detach(ifindex: int, name: str) -> bool:
    """Deletes the filter; False when it (or the interface) is not there."""
    with Netlink() as netlink:
        if name not in _filters(netlink, ifindex):
            return False
        order = _message(ifindex)
        order["handle"] = 1
        order["attrs"] = [("TCA_KIND", "bpf")]
        try:
            netlink.tell([(order, _RTM_DELTFILTER, 0, f"delete the tc filter {name} of interface {ifindex}")])
        except NotFoundError:
            return False
        return True


def attached(ifindex: int) -> list[str]:
    """Names of the filters at our priority."""
    with Netlink() as netlink:
        return list(_filters(netlink, ifindex))


def _filters(netlink: Netlink, ifindex: int) -> Iterator[str]:
    try:
        answers = netlink.ask(_message(ifindex), _RTM_GETTFILTER, "list the tc filters", dump=True)
    except (NotFoundError, InvalidError):
        return  # no interface, or no clsact on it
    for answer in answers:
        options = answer.get_attr("TCA_OPTIONS")
        name = options.get_attr("TCA_BPF_NAME") if answer.get_attr("TCA_KIND") == "bpf" and options else None
        if name and answer["info"] >> 16 == _PRIORITY:
            yield str(name)


def _message(ifindex: int) -> Message:
    message = tcmsg()
    message["index"], message["parent"], message["info"] = ifindex, _INGRESS, _PRIORITY << 16 | _ETH_P_ALL_BE
    return message
