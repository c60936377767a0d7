# SPDX-License-Identifier: Apache-2.0
"""A switch that executes rte_flow rules on frames: groups, priorities, values with masks, the actions that are used.

For tests: it knows rules by the meaning that DPDK's guide gives them, and nothing of pipelines. Its own idea of where
fields are comes from scapy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from scapy.all import ARP, ICMP, IP, TCP, UDP, VXLAN, Dot1Q, Ether, IPv6, Raw
from scapy.contrib.geneve import GENEVE

from mizar.pipeline.rte_flow.rules import Action, Item, Plan, Rule

_VNI = {"vxlan_vni": VXLAN, "geneve_vni": GENEVE}
_LENGTHS = {"eth": 14, "vlan": 4, "ipv4": 20, "ipv6": 40, "udp": 8, "vxlan": 8, "geneve": 8}


@dataclass
class Switch:
    """Rules in their groups; `conntrack` is what the check of a TCP packet says."""

    plan: Plan
    extra: list[Rule] = field(default_factory=list)
    conntrack: int = 1
    counted: list[int] = field(default_factory=list)

    def run(self, frame: bytes) -> tuple[str, int, bytes, int]:
        """Where a frame ends (`drop`, `represented_port`, `port_representor`), on which port, the frame, metadata."""
        state = _State(Ether(frame))
        group: int | None = 0
        while group is not None:
            rule = self._match(state, group)
            assert rule is not None, f"no rule of group {group} matches {state.packet.summary()}"
            group = None
            for action in rule.actions:
                conf: dict[str, Any] = dict(action.conf)
                if action.type == "jump":
                    group = conf["group"]
                elif action.type == "drop":
                    return "drop", 0, bytes(state.packet), state.meta
                elif action.type in ("represented_port", "port_representor"):
                    port = conf["ethdev_port_id" if action.type == "represented_port" else "port_id"]
                    return action.type, port, bytes(state.packet), state.meta
                elif action.type == "count":
                    self.counted.append(conf["identifier"])
                elif action.type == "indirect":
                    state.checked = self.conntrack
                else:
                    self._change(state, action, conf)
        raise AssertionError("a rule ended without sending the frame anywhere")

    def _match(self, state: _State, group: int) -> Rule | None:
        rules = [rule for rule in (*self.plan.rules, *self.extra) if rule.group == group and rule.domain == "transfer"]
        found = [rule for rule in rules if all(state.items(rule.items))]
        if not found:
            return None
        first = min(rule.priority for rule in found)
        best = [rule for rule in found if rule.priority == first]
        assert len(best) == 1, f"{len(best)} rules of one priority match: {[rule.command() for rule in best]}"
        return best[0]

    def _change(self, state: _State, action: Action, conf: dict[str, Any]) -> None:
        packet = state.packet
        if action.type == "set_meta":
            mask = int(conf["mask"], 0)
            state.meta = state.meta & ~mask | int(conf["data"], 0) & mask
        elif action.type == "set_tag":
            state.tags[conf["index"]] = conf["data"]
        elif action.type == "modify_field":
            _modify(state, conf)
        elif action.type == "of_pop_vlan":
            tag = packet[Dot1Q]
            packet.type = tag.type
            packet.remove_payload()
            packet.add_payload(tag.payload)
        elif action.type == "of_push_vlan":
            inner, kind = packet.payload, packet.type
            packet.remove_payload()
            packet.add_payload(Dot1Q(type=kind, vlan=0) / inner)
            packet.type = 0x8100
        elif action.type == "raw_decap":
            state.packet = Ether(bytes(packet)[_length(self.plan, conf["index"]) :])
        elif action.type == "raw_encap":
            state.packet = Ether(bytes(_headers(self.plan, conf["index"]) / Raw(bytes(packet))))
        elif action.type in ("set_ipv4_src", "set_ipv4_dst"):
            setattr(packet[IP], action.type[-3:], conf["ipv4_addr"])
        elif action.type in ("set_tp_src", "set_tp_dst"):
            setattr(packet[TCP if TCP in packet else UDP], f"{action.type[-3]}port", conf["port"])
        else:
            assert action.type in ("meter", "age"), action


@dataclass
class _State:
    packet: Any
    meta: int = 0
    checked: int | None = None
    tags: dict[int, int] = field(default_factory=dict)

    def items(self, items: tuple[Item, ...]) -> list[bool]:
        layer: Any = self.packet
        found = []
        for item in items:
            if item.type == "meta":
                found.append(_all(item, {"data": self.meta}))
            elif item.type == "tag":
                number = item.fields[1].spec
                found.append(_all(item, {"data": self.tags.get(number, 0), "index": number}))
            elif item.type == "conntrack":
                found.append(self.checked is not None and _all(item, {"": self.checked}))
            else:
                values = _values(item.type, layer)
                found.append(values is not None and _all(item, values))
                layer = layer.payload
        return found


def _all(item: Item, values: dict[str, int]) -> bool:
    return all(values[one.name] & one.mask == one.spec for one in item.fields)


def _values(kind: str, layer: Any) -> dict[str, int] | None:
    """The fields of a layer by rte_flow's names; None when it is of another kind."""
    name = type(layer).__name__
    if kind == "eth" and isinstance(layer, Ether):
        return {"type": layer.type, "has_vlan": int(layer.type == 0x8100)}
    if kind == "vlan" and isinstance(layer, Dot1Q):
        return {"vid": layer.vlan, "inner_type": layer.type, "has_more_vlan": int(layer.type == 0x8100)}
    if kind == "arp_eth_ipv4" and isinstance(layer, ARP):
        return {}
    if kind == "ipv4" and isinstance(layer, IP):
        flags = int(layer.flags) << 13 | layer.frag
        first = 4 << 4 | (layer.ihl or 5)
        return {
            "version_ihl": first,
            "fragment_offset": flags,
            "src": int(ip_address(layer.src)),
            "dst": int(ip_address(layer.dst)),
        }
    if kind == "ipv6" and isinstance(layer, IPv6):
        return {"src": int(ip_address(layer.src)), "dst": int(ip_address(layer.dst))}
    if kind == "tcp" and isinstance(layer, TCP):
        return {"src": layer.sport, "dst": layer.dport, "flags": int(layer.flags)}
    if kind == "udp" and isinstance(layer, UDP):
        return {"src": layer.sport, "dst": layer.dport}
    if kind == "vxlan" and isinstance(layer, VXLAN):
        return {"vni": layer.vni}
    if kind == "geneve" and isinstance(layer, GENEVE):
        return {"vni": layer.vni, "optlen": layer.optionlen or 0}
    if kind == "icmp" and isinstance(layer, ICMP):
        return {"type": layer.type, "ident": layer.id or 0}
    return {"type": bytes(layer)[0]} if kind == "icmp6" and name.startswith("ICMPv6") else None


def _modify(state: _State, conf: dict[str, Any]) -> None:
    """The low bits of one field, or an immediate value, into another field."""
    packet, mask = state.packet, (1 << conf["width"]) - 1
    if conf["src_type"] == "value":
        value = int(conf["src_value"], 16)
    elif conf["src_type"] == "meta":
        value = state.meta
    else:
        value = packet[Dot1Q].vlan if conf["src_type"] == "vlan_id" else packet[_VNI[conf["src_type"]]].vni
    value &= mask
    if conf["dst_type"] == "meta":
        state.meta = state.meta & ~mask | value
    elif conf["dst_type"] == "vlan_id":
        packet[Dot1Q].vlan = value
    else:
        packet[_VNI[conf["dst_type"]]].vni = value


def _length(plan: Plan, index: int) -> int:
    """How many bytes `set raw_decap` names."""
    command = next(one for one in plan.setup if one.startswith(f"set raw_decap {index} "))
    return sum(_LENGTHS[kind] for kind in command.split(" ", 3)[3].removesuffix(" / end_set").split(" / "))


def _headers(plan: Plan, index: int) -> Any:
    """The headers of `set raw_encap`, read from the command."""
    command = next(one for one in plan.setup if one.startswith(f"set raw_encap {index} "))
    found: Any = None
    for part in command.split(" ", 3)[3].removesuffix(" / end_set").split(" / "):
        kind, *words = part.split()
        has = dict(zip(words[::3], words[2::3], strict=True))
        found = _layer(kind, has) if found is None else found / _layer(kind, has)
    return found


def _layer(kind: str, has: dict[str, str]) -> Any:
    if kind == "eth":
        return Ether(src=has["src"], dst=has["dst"])
    if kind == "vlan":
        return Dot1Q(vlan=int(has["vid"]), type=int(has["inner_type"], 16))
    if kind == "ipv4":
        return IP(src=has["src"], dst=has["dst"], ttl=int(has["ttl"]), flags="DF", id=0)
    if kind == "udp":
        return UDP(sport=int(has["src"]), dport=int(has["dst"]), chksum=0)
    if kind == "geneve":
        return GENEVE(vni=int(has["vni"]), proto=int(has["protocol"], 16))
    assert kind == "vxlan", kind
    return VXLAN(vni=int(has["vni"]), flags=8)
