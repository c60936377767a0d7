# SPDX-License-Identifier: Apache-2.0
"""What this kernel can do for host topologies, found out by trying.

Called by mizar.topology before it changes anything. As in `features`, every probe does the thing itself in a namespace
without a name, which ends with it.
"""

from __future__ import annotations

from collections.abc import Callable

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from mizar.kernel import namespaces, vxlan
from mizar.kernel.devlink import Devlink
from mizar.kernel.interfaces import RTM_GETLINK, RTM_NEWLINK, set_link
from mizar.kernel.netlink import CREATE, EXCL, Message, Netlink
from mizar.kernel.topology_facts import EXTERNAL, VLAN_FILTERING, VNI_FILTER, Device, Vxlan
from mizar.model.errors import InvalidError, MizarError, NotFoundError

_NAME = "mizar-probe"


def missing(wanted: set[str]) -> dict[str, str]:
    """Those of the wanted features (constants of topology_facts) that are absent, each with what the kernel said."""
    found: dict[str, str] = {}
    for feature in sorted(wanted):
        try:
            _PROBES[feature]()
        except MizarError as error:
            found[feature] = str(error)
    return found


def devices() -> tuple[list[Device], str]:
    """Devices that devlink knows; or none, and why there cannot be any."""
    try:
        with Devlink() as devlink:
            return devlink.devices(), ""
    except NotFoundError as error:
        return [], str(error)


def _made(message: Message) -> Message:
    """The device that was made, as it is read back."""
    with namespaces.anonymous() as scratch, Netlink(scratch) as netlink:
        netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, "try it")])
        question = ifinfmsg()
        question["attrs"] = [("IFLA_IFNAME", _NAME)]
        return netlink.ask(question, RTM_GETLINK, "read what was made")[0]


def _bridge() -> None:
    message = set_link(_NAME)
    data = [("IFLA_BR_VLAN_FILTERING", 1)]
    message["attrs"].append(
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": data})]})
    )
    _made(message)


def _vxlan(vnifilter: bool) -> Callable[[], None]:
    device = Vxlan(id=0, external=True, vnifilter=vnifilter, local="", port=4789, learning=False)

    def attempt() -> None:
        if vxlan.read(_made(vxlan.new(_NAME, device))) != device:  # older kernels ignore attributes that are new
            raise InvalidError("the kernel does not know it")

    return attempt


_PROBES: dict[str, Callable[[], None]] = {
    VLAN_FILTERING: _bridge,
    EXTERNAL: _vxlan(vnifilter=False),
    VNI_FILTER: _vxlan(vnifilter=True),
}
