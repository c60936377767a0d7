# SPDX-License-Identifier: Apache-2.0
"""What a daemon tells Prometheus of its droplet (docs/metrics.md).

Called by whoever reads, through mizar.metrics.serve; the calls are observed by the servicer. How many series there are
does not follow from what tenants do: VPCs have `VPCS` of their own and share one beyond that, endpoints have none
unless a reader asks. It only reads.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from prometheus_client import Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily

from mizar._built import transit_pb2 as pb
from mizar.metrics.bounded import Bounded
from mizar.metrics.process import Process, gauge
from mizar.model import drop_reasons
from mizar.model.addresses import text_of
from mizar.model.policy_rows import PEER, VERDICT
from mizar.transit import counters, ddos_metrics, function_metrics
from mizar.transit.engines.engine import Sample
from mizar.transit.engines.metrics import families
from mizar.transit.events import Hub
from mizar.transit.execute import Maps
from mizar.transit.ledger import Ledger
from mizar.transit.service_flows import share
from mizar.transit.servicer import Identity
from mizar.transit.state import State

VPCS = 100
"""That have series of their own."""
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_U32 = 0xFFFF_FFFF
REFUSALS = {
    "no_listener_packets": "NO_LISTENER",
    "inside_packets": "PUBLIC_SOURCE",
    "no_member_packets": "SERVICE_WITHOUT_MEMBER",
    "too_big_packets": "PACKET_TOO_BIG",
}
"""Counters of public addresses → the drop reason that they are of."""


def ways(message: Any, unit: str) -> tuple[str, ...]:
    """What packets are counted for: of fields like sent_packets the part in front of the unit."""
    names = (field.name for field in message.DESCRIPTOR.fields)
    return tuple(name.removesuffix(f"_{unit}") for name in names if name.endswith(f"_{unit}"))


class DaemonMetrics:
    """Of one daemon. `mtu` is of the droplet's interface."""

    def __init__(
        self,
        identity: Identity,
        ledger: Ledger,
        hub: Hub,
        mtu: Callable[[], int],
        samples: Callable[[], Iterable[tuple[pb.Engine, Sample]]] = tuple,
        functions: Callable[[], Awaitable[pb.Functions]] | None = None,
        protections: Callable[[], Iterable[tuple[str, pb.DdosStatus]]] = tuple,
    ) -> None:
        self._protections = protections
        self._functions = functions
        self._samples = samples
        self._identity = identity
        self._ledger = ledger
        self._hub = hub
        self._mtu = mtu
        self._process = Process("daemon")
        self._vpcs: Bounded[int] = Bounded(VPCS)
        self._calls = Histogram(
            "mizar_daemon_call_seconds", "How long calls of the manager took, by call.", ("call",),
            buckets=_BUCKETS_S, registry=self._process.registry,
        )  # fmt: skip
        self._refused = Counter(
            "mizar_daemon_refused_calls", "Calls that were refused, by call and gRPC status.", ("call", "code"),
            registry=self._process.registry,
        )  # fmt: skip

    def observe(self, call: str, seconds: float, code: str) -> None:
        """Takes note of a call; `code` is empty where it was answered."""
        self._calls.labels(call).observe(seconds)
        if code:
            self._refused.labels(call, code).inc()

    async def read(self, endpoints: int) -> Iterable[Metric]:
        """All metrics, with those of the so many endpoints that have the most packets."""
        functions = await asyncio.to_thread(lambda: list(families(self._samples())))
        if self._functions is not None:
            functions += function_metrics.families(await self._functions())
        functions += ddos_metrics.families(self._protections())
        async with self._ledger.rest:
            counted, maps = await asyncio.to_thread(self._look)
            state = self._ledger.state
            return [
                *self._process.read(),
                *self._droplet(state),
                *_drops(counted),
                *self._traffic(counted),
                *_maps(state, maps),
                *_public(self._ledger.maps, state),
                *functions,
                *(_endpoints(counted, state, endpoints) if endpoints else ()),
            ]

    def _look(self) -> tuple[pb.Counters, dict[str, int]]:
        state, maps = self._ledger.state, self._ledger.maps
        return counters.read(maps, state), {"flows": _flows(maps, state), "proxy_flows": _proxy_flows(maps, state)}

    def _droplet(self, state: State) -> Iterator[Metric]:
        me = self._identity
        labels = ("address", "interface", "xdp_mode", "tc_mode")
        values = (text_of(me.address), me.interface, me.xdp_mode, me.tc_mode)
        yield gauge("mizar_droplet_info", "Which droplet this is; the value is 1.", labels, [(values, 1)])
        yield gauge("mizar_interface_mtu_bytes", "MTU of the droplet's interface.", (), [((), self._mtu())])
        yield gauge("mizar_endpoints", "Endpoints that live here.", (), [((), len(state.locals))])
        yield gauge("mizar_event_watchers", "Who watches events of this daemon.", (), [((), self._hub.watchers)])
        others = [one.down for address, one in state.droplets.items() if address != state.own]
        peers = [(("up",), others.count(False)), (("down",), others.count(True))]
        yield gauge("mizar_peer_droplets", "Other droplets, by whether they answer probes.", ("state",), peers)

    def _traffic(self, counted: pb.Counters) -> Iterator[Metric]:
        fields = [field.name for field in pb.VpcCounters.DESCRIPTOR.fields if field.name != "vni"]
        now = {one.vni: {name: getattr(one, name) for name in fields} for one in counted.vpcs}
        found = self._vpcs.take(now)
        for unit in ("packets", "bytes"):
            family = CounterMetricFamily(
                f"mizar_vpc_{unit}", f"{unit.capitalize()} by VPC and what became of them here.", labels=("vpc", "way")
            )
            for vpc, counts in found.items():
                for way in ways(pb.VpcCounters, unit):
                    family.add_metric((vpc, way), counts.get(f"{way}_{unit}", 0))
            yield family


def _public(maps: Maps, state: State) -> Iterator[Metric]:
    """Of the operator's addresses, so that their number does not follow from what tenants do."""
    names = ("address", "vpc")
    came = CounterMetricFamily("mizar_public_packets", "Packets that came for a public address here.", labels=names)
    octets = CounterMetricFamily("mizar_public_bytes", "The same in bytes of whole frames.", labels=names)
    text = "Of these refused, by reason; other: any that has no series of its own."
    refused = CounterMetricFamily("mizar_public_refused_packets", text, labels=(*names, "reason"))
    for service in state.services.values():
        for address in service.public if service.attracted else ():
            sums = dict(maps.public_counters.get(2 * service.slot + (len(address) == 16)) or {})
            labels = (text_of(address), str(service.vni))
            came.add_metric(labels, sums.pop("came_packets", 0))
            octets.add_metric(labels, sums.pop("came_bytes", 0))
            for name, value in sums.items():
                refused.add_metric((*labels, REFUSALS.get(name, "other")), value)
    yield from (came, octets, refused)


def _drops(counted: pb.Counters) -> Iterator[Metric]:
    known = drop_reasons.by_number()
    names = ("reason", "verdict")
    text = "Refused packets; verdict pass: left to the host's stack."
    packets = CounterMetricFamily("mizar_dropped_packets", text, labels=names)
    octets = CounterMetricFamily("mizar_dropped_bytes", "The same in bytes of whole frames.", labels=names)
    for one in counted.drops:
        reason = known.get(one.reason)
        labels = (reason.name, reason.verdict) if reason else (str(one.reason), "")
        packets.add_metric(labels, one.packets)
        octets.add_metric(labels, one.bytes)
    yield from (packets, octets)


def _maps(state: State, counted: dict[str, int]) -> Iterator[Metric]:
    limits = state.limits
    fill = {
        "droplets": (len(state.droplets), limits.droplets),
        "vpcs": (len(state.vpcs), limits.vpcs),
        "networks": (len(state.networks), limits.networks),
        "endpoints": (len(state.at), limits.endpoints),
        "learned": (len(state.learned), limits.learned),
        "local_endpoints": (len(state.locals), limits.local_endpoints),
        "group_sets": (len(state.group_sets), limits.group_sets),
        "policy_sets": (len(state.policy_sets), limits.policy_sets),
        "policy_peers": (
            sum(len(one.peers) for one in list(state.policy_sets.values())) // PEER.size,
            limits.policy_rows,
        ),
        "policy_verdicts": (
            sum(len(one.verdicts) for one in list(state.policy_sets.values())) // VERDICT.size,
            limits.policy_rows,
        ),
        "services": (sum(2 if one.near else 1 for one in state.services.values()), limits.services),
        "members": (sum(len(one.members) for one in state.services.values()), limits.members),
        "proxies": (len(state.proxies), limits.proxies),
        "flows": (counted["flows"], limits.flows),
        "proxy_flows": (counted["proxy_flows"], limits.proxies * limits.proxy_flows),
    }
    rows = [((name,), float(used)) for name, (used, _) in fill.items()]
    yield gauge("mizar_map_entries", "What tables of the data plane hold.", ("map",), rows)
    rows = [((name,), float(most)) for name, (_, most) in fill.items()]
    yield gauge("mizar_map_max_entries", "What they can hold.", ("map",), rows)


def _flows(maps: Maps, state: State) -> int:
    """Of scaled endpoints, as of now: what the last sweep found and what was inserted since."""
    most, slots = share(state), {state.vpcs[one.vni].slot for one in state.services.values() if one.vni in state.vpcs}
    left = 0
    for slot in slots:
        budget: Any = maps.flow_budgets.get(slot)
        count: Any = maps.flow_counts.get(slot)
        left += min(most, max(0, budget["until"] - count["inserted"])) if budget and count else most
    return most * len(slots) - left


def _proxy_flows(maps: Maps, state: State) -> int:
    held = 0
    for proxy in state.proxies.values():
        usage, ended = maps.proxy_usage.get(proxy.slot), maps.proxy_ended.get(proxy.slot)
        held += (usage["begun"] - usage["evicted"] - (ended or 0)) & _U32 if usage else 0
    return held


def _endpoints(counted: pb.Counters, state: State, most: int) -> Iterator[Metric]:
    busiest = sorted(counted.endpoints, key=lambda one: one.sent_packets + one.delivered_packets, reverse=True)[:most]
    for unit in ("packets", "bytes"):
        family = CounterMetricFamily(
            f"mizar_endpoint_{unit}",
            f"{unit.capitalize()} by endpoint (its uid) and what became of them.",
            labels=("endpoint", "vpc", "way"),
        )
        for one in busiest:
            vpc = str(state.locals[one.uid].endpoint.vni) if one.uid in state.locals else ""
            for way in ways(pb.EndpointCounters, unit):
                family.add_metric((one.uid, vpc, way), getattr(one, f"{way}_{unit}"))
        yield family
