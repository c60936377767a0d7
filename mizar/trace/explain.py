# SPDX-License-Identifier: Apache-2.0
"""From a predicted way to sentences: for each hop the table that decided, what was done, and what is wrong with it.

Called by the manager. Pure. What a table says is told as it is; where the desired state says something else, the hop
bears a note that names the object. It must never hide a hop that it cannot explain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from mizar.model import drop_reasons
from mizar.model.addresses import APPLIANCE_MAC
from mizar.model.errors import MizarError
from mizar.oracle.agent import agent
from mizar.oracle.fleet import End, Hop
from mizar.oracle.frames import Inner
from mizar.oracle.outcome import Judgement, Step, Verdict
from mizar.oracle.policies import Direction
from mizar.oracle.proxy import is_proxy
from mizar.oracle.routes import action_for
from mizar.oracle.substrate import address_to
from mizar.oracle.tables import Agent, Droplet, Endpoint, HopSet
from mizar.oracle.transit import transit
from mizar.trace.judged import said
from mizar.trace.names import Names
from mizar.trace.predict import Prediction
from mizar.trace.public import answered, chosen, in_option, public_at
from mizar.trace.report import Ending, HopReport
from mizar.trace.sight import Sight, changes, look

_OVERHEAD = {4: 50, 16: 70}
_ETHERNET = 14


@dataclass(frozen=True, slots=True)
class Explainer:
    """Of one prediction. `agents`: interface of the source, for the first hop."""

    prediction: Prediction
    names: Names
    ifindex: int

    def hops(self) -> list[HopReport]:
        """All hops, in the order of the way."""
        found = []
        for number, hop in enumerate(self.prediction.way.hops):
            found.append(self._hop(number, hop))
        return found

    def ending(self) -> Ending:
        """How the way ends, in one sentence."""
        way = self.prediction.way
        refused = next((place for place, hop in enumerate(way.hops) if hop.outcome.reason), None)
        place = len(way.hops) - 1 if refused is None else refused
        last = way.hops[place]
        where = self.names.droplet(last.droplet) or _text(last.droplet)
        if refused is None and way.end is End.STACK:
            return Ending(True, f"handed to the host's own stack on {where}, which routes it into the substrate")
        if refused is None and way.end is End.DELIVERED and last.outcome.handover is not None:
            number, address = last.outcome.handover.vni, self._receiver(last)
            known = self.names.endpoint(number, address)
            carrier = "" if known else self.names.carrier(number, address)
            who = known.name if known else carrier or f"an endpoint of {self._vpc(number)}"
            return Ending(True, f"delivered to {who} on {where}", number, known.name if known else "")
        if refused is None and way.end is End.LEFT and last.outcome.next_hop is not None:
            to = last.outcome.next_hop
            name = self.names.droplet(to) or _text(to)
            if to in self.prediction.silent:
                error = self.prediction.silent[to]
                return Ending(False, f"sent to {name}, which cannot be asked what becomes of it: {_sentence(error)}")
            return Ending(True, f"sent to {name}, a tunnel end without a daemon: what it does nobody can tell")
        if refused is None and way.end is End.ANSWERED:
            return Ending(True, f"answered on {where}")
        if last.outcome.verdict is Verdict.PASS:
            return Ending(False, f"left to the host's own stack on {where}: {self._refusal(last.outcome.reason)}")
        if refused is None and way.end is End.CIRCLED:
            return Ending(False, "it goes in circles: tables of droplets contradict one another")
        told = "; its sender is told so" if last.outcome.verdict is not Verdict.DROP else ""
        here, before = (
            self.prediction.droplets[last.droplet],
            look(last.arrived, self.prediction.droplets[last.droplet]),
        )
        vni = self._number(place, last, before)
        causes = self._cause(here, last, before, vni)
        why = f"{last.outcome.reason}: {causes[0]}" if causes else self._refusal(last.outcome.reason)
        return Ending(False, f"dropped on {where} by {last.program}, {why}{told}")

    # ---- one hop

    def _hop(self, number: int, hop: Hop) -> HopReport:
        here, outcome = self.prediction.droplets[hop.droplet], hop.outcome
        before, after = look(hop.arrived, here), look(outcome.frame, here)
        vni = self._number(number, hop, before)
        notes: list[str] = []
        table = self._table(here, hop, before, vni, notes)
        refused = outcome.reason and outcome.verdict in (Verdict.DROP, Verdict.PASS, Verdict.ANSWER, Verdict.SEND)
        if refused:
            notes += self._cause(here, hop, before, vni)
        room = self._room(here, hop, after, notes) if outcome.verdict is Verdict.SEND else None
        rewrite = changes(before, after) if outcome.verdict is not Verdict.DROP else []
        return HopReport(
            droplet=self.names.droplet(hop.droplet) or _text(hop.droplet),
            program=hop.program,
            vpc=self._vpc(vni),
            number=vni,
            leads=self._leads(here, hop, before, after, vni),
            verdict=_verdict(hop),
            step=outcome.step.value if outcome.step else "",
            table=table,
            rewrite=tuple(rewrite),
            room=room,
            reason=outcome.reason,
            sentence=self._refusal(outcome.reason) if outcome.reason else "",
            next=self._name(outcome.next_hop) if outcome.next_hop else "",
            notes=tuple(notes),
            policy=tuple(self._judged(here, hop, before, vni)),
        )

    def _judged(self, here: Droplet, hop: Hop, before: Sight, vni: int) -> Iterator[str]:
        """What policies said, in the order in which they were asked."""
        inner = before.inner
        if inner is not None:
            for one in hop.outcome.judged:
                yield said(self.names, self._place(here, inner, vni, one), inner, one)

    def _place(self, here: Droplet, inner: Inner, vni: int, one: Judgement) -> tuple[int, bytes]:
        """The policed endpoint, by VPC and address."""
        if one.direction is Direction.EGRESS:
            return vni, inner.source
        number = self._crossed(here, vni, inner.destination)
        public = inner.destination in here.public  # nobody has asked for its entry in `endpoints`
        found = None if public else here.endpoints.get((number, inner.destination))
        if found is not None and found.service is None:
            return number, inner.destination
        agents = (agent for agent in here.agents.values() if agent.uid == one.uid)  # a member, or an appliance
        legs = (leg for agent in agents for leg in (agent.ipv4, agent.ipv6) if leg is not None)
        return number, next((leg.address for leg in legs), inner.destination)

    def _number(self, number: int, hop: Hop, before: Sight) -> int:
        """The VPC in which a packet comes to a hop."""
        here = self.prediction.droplets[hop.droplet]
        if hop.program == "agent":
            sender = self.prediction.droplets[hop.droplet].agents.get(self.ifindex)
            return sender.vni if sender else 0
        if hop.program == "transit":
            public = public_at(here, hop.arrived)
            return public.vni if public else before.vni
        handover = self.prediction.way.hops[number - 1].outcome.handover
        return handover.vni if handover else 0

    def _leads(self, here: Droplet, hop: Hop, before: Sight, after: Sight, vni: int) -> int:
        """The VPC in which it goes on, or would have been looked for."""
        if hop.outcome.handover:
            return hop.outcome.handover.vni
        crossed = self._crossed(here, vni, before.inner.destination) if before.inner else vni
        return crossed if hop.outcome.reason or crossed != vni else after.vni or vni

    def _table(self, here: Droplet, hop: Hop, before: Sight, vni: int, notes: list[str]) -> str:
        """Which entry decided."""
        outcome, step = hop.outcome, hop.outcome.step
        if hop.program == "deliver":
            said = "agents: the interface is still this endpoint's"
            return "" if outcome.reason else said + answered(hop, self._name(hop.droplet))
        if hop.program == "proxy":
            return "proxy_flows: the flow's other side"
        if hop.program == "transit" and (public := public_at(here, hop.arrived)):
            return chosen(here, public, hop, self.prediction.rows.get(here.address), self.names)
        if before.inner is None or step is None:
            return ""
        to = before.vip[4:] or before.inner.destination
        number = self._crossed(here, vni, to)
        sender = here.agents.get(self.ifindex) if hop.program == "agent" else None
        crossed = f"networks: {_text(to)} is a peer's, {self._vpc(number)}; " if number != vni else ""
        if sender and sender.routes and (action := action_for(sender.routes, to)):
            if isinstance(action, bytes):
                return f"routes: {_text(to)} → the appliance {action.hex(':')}"
            crossed = f"routes: {_text(to)} → {action}; " + crossed
        if before.inner.frame[6:12] == APPLIANCE_MAC and hop.program == "transit":
            return f"endpoints: the appliance {before.inner.frame[:6].hex(':')}, by its MAC"
        if before.vip:
            crossed = f"{in_option(before)}; " + crossed
        return crossed + self._answer(here, step, sender, number, to, outcome.next_hop, notes)

    def _answer(
        self, here: Droplet, step: Step, sender: Agent | None, vni: int, to: bytes, went: bytes | None, notes: list[str]
    ) -> str:
        match step:
            case Step.DELIVER | Step.BOUNCE:
                endpoint = here.endpoints.get((vni, to))
                return self._endpoint(endpoint, vni, to, notes, went) if endpoint else "endpoints"
            case Step.DIVIDE:
                network = here.find_network(vni, to)
                if network is None:
                    return "networks"
                self._check_set(network.bouncers, vni, network.id, notes, went)
                bouncers = self._set(network.bouncers, here)
                return f"networks: {_text(to)} is in {self._network(vni, network.id)}, bounced by {bouncers}"
            case Step.TO_DIVIDER:
                vpc = here.vpcs.get(vni)
                if vpc is None:
                    return "vpcs"
                self._check_set(vpc.dividers, vni, 0, notes, went)
                return f"vpcs: the dividers of {self._vpc(vni)} are {self._set(vpc.dividers, here)}"
            case Step.TO_BOUNCER:
                own = sender.bouncers if sender else ()
                if sender:
                    self._check_set(own, vni, sender.network, notes, went)
                network_name = self._network(vni, sender.network) if sender else "the network"
                return f"endpoints: none for {_text(to)}; {network_name} is bounced by {self._set(own, here)}"
            case Step.ROUTER:
                return f"networks: {_text(to)} is the virtual router"
            case Step.SUBSTRATE:
                return "routes: into the host's own stack"

    def _endpoint(self, found: Endpoint, vni: int, to: bytes, notes: list[str], went: bytes | None) -> str:
        known = self.names.endpoint(vni, to)
        name = f"{_text(to)}" + (f" is {known.name}" if known else "")
        if found.service is not None:
            member = f", a member on {self._name(went)}" if went else ""
            return f"services: {name}; of {len(found.service.members)} members the flow's hash picks one{member}"
        where = self._name(found.host) if found.host else "nowhere"
        if known and known.host and found.host != known.host and known.kind != "scaled":
            notes.append(
                f"the entry of {known.name} leads to {where}, but it lives on {self._name(known.host)}: "
                "the entry is wrong or stale"
            )
        if known and known.kind == "simple" and found.mac != known.mac:
            notes.append(f"the entry of {known.name} has MAC {found.mac.hex(':')}, not {known.mac.hex(':')}")
        if found.learned:
            return f"endpoints: {name}, learned for the direct path: on {where}"
        return f"endpoints: {name}, on {where}" + (", behind a proxy" if is_proxy(found.ifindex) else "")

    def _check_set(self, members: HopSet, vni: int, network: int, notes: list[str], went: bytes | None) -> None:
        wanted, held = self.names.members(vni, network), {one for one in members if one}
        what = f"bouncers of {self._network(vni, network)}" if network else f"dividers of {self._vpc(vni)}"
        if wanted and held - wanted:
            strangers = ", ".join(sorted(self._name(one) for one in held - wanted))
            notes.append(f"{strangers} is none of the {what}: the entry is wrong or stale")
        if went is None and not held:
            notes.append(f"the table knows no {what}")

    # ---- what is wrong

    def _cause(self, here: Droplet, hop: Hop, before: Sight, vni: int) -> list[str]:
        """The object that a packet is refused for, beside what its reason says."""
        if before.inner is None:
            return []
        to, hop_vni = before.inner.destination, vni
        vni = self._crossed(here, vni, to)
        known = self.names.endpoint(vni, to)
        where = self.names.droplet(here.address) or _text(here.address)
        network = here.find_network(vni, to)
        reason = hop.outcome.reason
        if hop.outcome.judged and hop.outcome.judged[-1].reason == reason:
            own = vni if hop.outcome.judged[-1].direction is Direction.INGRESS else hop_vni
            place = self._place(here, before.inner, own, hop.outcome.judged[-1])
            return [said(self.names, place, before.inner, hop.outcome.judged[-1])]
        match reason:
            case "ENDPOINT_UNKNOWN" | "NETWORK_UNKNOWN" if known:
                missing = "entry" if reason == "ENDPOINT_UNKNOWN" else "network"
                return [f"{_text(to)} is {known.name}, but its {missing} is missing in the tables of {where}"]
            case "ENDPOINT_UNKNOWN" if network:
                return [f"{self._network(vni, network.id)} has no endpoint with the address {_text(to)}"]
            case "ENDPOINT_UNKNOWN" | "NETWORK_UNKNOWN":
                return [f"nobody in {self._vpc(vni)} has the address {_text(to)}"]
            case "UNKNOWN_VNI":
                return [f"{where} has not been told of {self._vpc(vni)}"]
            case "AGENT_UNCONFIGURED":
                return [f"the entry in `agents` of interface {self.ifindex} is missing on {where}"]
            case "DELIVERY_FAILED":
                name = known.name if known else _text(to)
                return [f"`agents` of {where} does not have the interface that `endpoints` names for {name}"]
            case "NO_BOUNCER" | "NO_DIVIDER":
                return [f"a hop set of {self._vpc(vni)} is empty on {where}"]
            case "PACKET_TOO_BIG":
                return self._tight(here, hop, before)
            case "NEXT_HOP_UNRESOLVED":
                unresolved = sorted(self._name(one) for one, mac in here.droplets.items() if mac is None)
                return [f"{where} knows no MAC that leads to {', '.join(unresolved) or 'the next droplet'}"]
            case "SERVICE_WITHOUT_MEMBER":
                return [f"{known.name if known else _text(to)} has no member that takes new flows, as {where} sees it"]
            case "NO_LISTENER":
                return [f"{known.name if known else _text(to)} has no listener for the packet's protocol and port"]
            case "ROUTE_BLACKHOLE":
                sender = here.agents.get(self.ifindex)
                return [f"the route table of {self._network(vni, sender.network)}"] if sender else []
        return []

    def _tight(self, here: Droplet, hop: Hop, before: Sight) -> list[str]:
        """Which way is too narrow: the one that the packet would have taken, had nobody looked."""
        assert before.inner is not None
        blind, bytes_ = replace(here, mtus={}), len(before.inner.frame) - _ETHERNET
        again = agent(blind, self.ifindex, hop.arrived) if hop.program == "agent" else transit(blind, hop.arrived)
        to = again.next_hop
        if to is None or to not in here.mtus:
            return []
        mtu, wanted = here.mtus[to], self.names.mtu(here.address, to)
        wrong = f", but both interfaces have {wanted}: the entry is wrong" if wanted and wanted != mtu else ""
        overhead = self._overhead(here, to) + before.option_bytes
        return [
            f"`droplets` on {self._name(here.address)} says that the way to {self._name(to)} takes IP packets of {mtu} "
            f"bytes{wrong}; with the tunnel's headers this one has {bytes_ + overhead}"
        ]

    def _room(self, here: Droplet, hop: Hop, after: Sight, notes: list[str]) -> int | None:
        """How many bytes more would have fitted on the way to the next droplet."""
        to = hop.outcome.next_hop
        mtu = here.mtus.get(to) if to else None
        if not to or not mtu or after.inner is None:
            return None
        wanted = self.names.mtu(here.address, to)
        if wanted and mtu != wanted:
            name = self._name(to)
            notes.append(
                f"`droplets` says {mtu} bytes to {name}, but both interfaces have {wanted}: the entry is wrong"
            )
        return mtu - self._overhead(here, to) - after.option_bytes - (len(after.inner.frame) - _ETHERNET)

    # ---- names

    def _crossed(self, here: Droplet, vni: int, to: bytes) -> int:
        """The VPC in which an address is looked up: a peer's, where the networks say so."""
        network = here.find_network(vni, to)
        return network.peer if network and network.peer else vni

    def _receiver(self, last: Hop) -> bytes:
        sight = look(last.outcome.frame, self.prediction.droplets[last.droplet])
        return sight.inner.destination if sight.inner else b""

    def _overhead(self, here: Droplet, to: bytes) -> int:
        return _OVERHEAD[len(address_to(here, to) or to)]

    def _refusal(self, reason: str) -> str:
        found = drop_reasons.by_name().get(reason)
        return f"{reason}. {found.sentence}" if found else "not for this system"

    def _vpc(self, number: int) -> str:
        return self.names.vpc(number) or (f"VPC {number}" if number else "")

    def _network(self, number: int, network: int) -> str:
        return self.names.network(number, network) or f"network {network}"

    def _name(self, address: bytes) -> str:
        return self.names.droplet(address) or _text(address)

    def _set(self, members: HopSet, here: Droplet) -> str:
        held = sorted({self._name(one) + (" (down)" if one in here.down else "") for one in members if one})
        return ", ".join(held) or "none"


def _verdict(hop: Hop) -> str:
    return hop.outcome.verdict.value


def _text(address: bytes) -> str:
    return str(ip_address(address)) if len(address) in (4, 16) else address.hex()


def _sentence(error: MizarError) -> str:
    return "; ".join(problem.message for problem in error.problems)
