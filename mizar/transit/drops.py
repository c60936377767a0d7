# SPDX-License-Identifier: Apache-2.0
"""What the programs tell of refused packets, as messages for watchers, and how much of it they left out.

Called by the hub while somebody watches. It must never believe a frame: who sent it is known by the interface that it
came in by, and what is inside of it only where the data plane has read the same.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from mizar._built import transit_pb2 as pb
from mizar.kernel.layout import constant
from mizar.model import drop_reasons
from mizar.model.addresses import from_mapped
from mizar.transit import captured
from mizar.transit.execute import Maps
from mizar.transit.limits import LIMITED, limit_text
from mizar.transit.state import State

_HOOKS = {1: "agent", 2: "transit", 3: "deliver", 4: "proxy", 5: "substrate"}  # enum hook
_TRANSIT = "transit"
_RELOOK_S = 1.0
FUNCTION_REFUSED, FUNCTION_MISSING = "FUNCTION_REFUSED", "FUNCTION_MISSING"
"""The reason for which function and own reason are told."""


class Describer:
    """Turns `struct event` into messages. `state` is the droplet's; `name_of` tells an interface's name; `function_of`
    the function, its own reason and the sentence of what a function refused."""

    def __init__(
        self,
        state: Callable[[], State],
        name_of: Callable[[int], str],
        function_of: Callable[[int], tuple[str, str, str]] = lambda _: ("", "", ""),
    ) -> None:
        self._state = state
        self._name_of = name_of
        self._function_of = function_of
        self._uids: dict[int, str] = {}
        self._looked = float("-inf")

    def drop(self, fields: dict[str, Any]) -> pb.Drop:
        """The message about a refused frame, or about one of which a policy wants told."""
        reason = drop_reasons.by_number().get(fields["reason"])
        drop = pb.Drop(
            reason=fields["reason"],
            name=reason.name if reason else "",
            sentence=reason.sentence if reason else "",
            vni=fields["vni"],
            vpc_known=bool(fields["vpc_slot"]),
            source=from_mapped(fields["src"]) if any(fields["src"]) else b"",
            destination=from_mapped(fields["dst"]) if any(fields["dst"]) else b"",
            interface=self._name_of(fields["ifindex"]),
            length=fields["length"],
            hook=_HOOKS.get(fields["hook"], ""),
            uid=self._uid(fields["endpoint_slot"]) if fields["endpoint_slot"] else "",
            frame=fields["frame"][: fields["captured"]],
            inner_at=fields["inner_at"],
            rule=fields["rule"],
            policed=self._uid(fields["policed_slot"]) if fields["policed_slot"] else "",
            outcome=pb.Drop.Outcome.ValueType(fields["outcome"]),
        )
        if drop.name in (FUNCTION_REFUSED, FUNCTION_MISSING):
            drop.function, drop.function_reason, sentence = self._function_of(fields["rule"])
            drop.rule, drop.sentence = 0, sentence or drop.sentence
        if drop.name in LIMITED:
            drop.limit_of, drop.limit = limit_text(self._state(), fields["rule"])
            drop.rule = 0
        _look_inside(drop)
        return drop

    def _uid(self, slot: int) -> str:
        """The endpoint that counts in a slot of endpoint_counters; empty when it has just gone."""
        uid = self._uids.get(slot, "")
        local = self._state().locals.get(uid)
        if local is not None and local.slot == slot:
            return uid
        if time.monotonic() - self._looked < _RELOOK_S:
            return ""
        self._looked = time.monotonic()
        self._uids = {one.slot: one.wanted.uid for one in list(self._state().locals.values())}
        return self._uids.get(slot, "")


def _look_inside(drop: pb.Drop) -> None:
    if drop.hook == _TRANSIT and not drop.inner_at:
        return
    found = captured.inner(drop.frame[drop.inner_at :])
    if found is None or (drop.source and (found.source, found.destination) != (drop.source, drop.destination)):
        return
    drop.source, drop.destination, drop.protocol = found.source, found.destination, found.protocol
    drop.source_port, drop.destination_port = found.source_port, found.destination_port
    drop.inner = True


class Suppressed:
    """What was left out since it was last asked for, by reason and VPC."""

    def __init__(self, maps: Maps) -> None:
        self._limits: Any = maps.event_limits
        self._reasons = constant("EVENT_REASONS")
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}

    def take(self) -> Iterator[pb.Suppressed]:
        """Messages about what was left out; reading is work for a thread of its own."""
        more: dict[tuple[int, int], int] = {}
        for slot, cpus in self._limits.items():
            for cpu, limit in enumerate(cpus):
                vni, count = limit["vni"], limit["suppressed"]
                last_vni, last = self._seen.get((slot, cpu), (vni, 0))
                if (vni, count) == (last_vni, last):
                    continue
                self._seen[slot, cpu] = vni, count
                new = count - last if vni == last_vni and count >= last else count
                key = (slot % self._reasons, vni)
                more[key] = more.get(key, 0) + new
        for (reason, vni), packets in sorted(more.items()):
            if packets:
                yield pb.Suppressed(reason=reason, vni=vni, packets=packets)
