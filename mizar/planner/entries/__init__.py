# SPDX-License-Identifier: Apache-2.0
"""What one droplet's tables hold, as plain values. Mirrors the messages of contracts/transit.proto.

Made by the topology, compared by the plan, translated to messages by the manager. Addresses are 4 or 16 bytes in
network order, and droplets are named by their address, as on the wire. Plain dataclasses, because there may be
millions of them: they are validated where objects are (mizar/model), not here. Each entry has its place in the order
of dependence (`order`), a `key` among all entries of a droplet, and says when a droplet that holds another needs no
change (`same`).
"""

from mizar.planner.entries.endpoints import EndpointEntry as EndpointEntry
from mizar.planner.entries.endpoints import LocalEntry as LocalEntry
from mizar.planner.entries.endpoints import OvsEntry as OvsEntry
from mizar.planner.entries.endpoints import ProxyEntry as ProxyEntry
from mizar.planner.entries.endpoints import TapEntry as TapEntry
from mizar.planner.entries.endpoints import WorkloadEntry as WorkloadEntry
from mizar.planner.entries.networks import NO_DHCP as NO_DHCP
from mizar.planner.entries.networks import DhcpEntry as DhcpEntry
from mizar.planner.entries.networks import DropletEntry as DropletEntry
from mizar.planner.entries.networks import NetworkEntry as NetworkEntry
from mizar.planner.entries.networks import NextHopEntry as NextHopEntry
from mizar.planner.entries.networks import PeeringEntry as PeeringEntry
from mizar.planner.entries.networks import PrefixEntry as PrefixEntry
from mizar.planner.entries.networks import RouteEntry as RouteEntry
from mizar.planner.entries.networks import VpcEntry as VpcEntry
from mizar.planner.entries.rules import NO_QOS as NO_QOS
from mizar.planner.entries.rules import NO_RATE as NO_RATE
from mizar.planner.entries.rules import NOT_POLICED as NOT_POLICED
from mizar.planner.entries.rules import GroupSetEntry as GroupSetEntry
from mizar.planner.entries.rules import NetworkAclEntry as NetworkAclEntry
from mizar.planner.entries.rules import PolicyBinding as PolicyBinding
from mizar.planner.entries.rules import PolicySetEntry as PolicySetEntry
from mizar.planner.entries.rules import QosEntry as QosEntry
from mizar.planner.entries.rules import RateEntry as RateEntry
from mizar.planner.entries.services import MOST_MEMBERS as MOST_MEMBERS
from mizar.planner.entries.services import HealthEntry as HealthEntry
from mizar.planner.entries.services import ListenerEntry as ListenerEntry
from mizar.planner.entries.services import MemberEntry as MemberEntry
from mizar.planner.entries.services import ServiceEntry as ServiceEntry
from mizar.planner.entries.vpns import IpsecCertificateEntry as IpsecCertificateEntry
from mizar.planner.entries.vpns import IpsecEntry as IpsecEntry
from mizar.planner.entries.vpns import VpnEntry as VpnEntry
from mizar.planner.entries.vpns import WireguardEntry as WireguardEntry

Entry = (
    DropletEntry
    | VpcEntry
    | NetworkEntry
    | PeeringEntry
    | GroupSetEntry
    | PolicySetEntry
    | NetworkAclEntry
    | EndpointEntry
    | LocalEntry
    | ProxyEntry
    | ServiceEntry
    | VpnEntry
)
Key = tuple[int, bytes] | tuple[int, int] | tuple[int, int, int] | tuple[int, int, tuple[bytes, ...]] | tuple[int, str]
