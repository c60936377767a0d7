# SPDX-License-Identifier: Apache-2.0
"""What a load balancer in mode nat does with a traced packet from outside, as its instance tells it: its connections
are there, and the choice is its kernel's.

Called by mizar.manager.tracing. It only asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mizar._built import transit_pb2 as pb
from mizar.manager.droplet_link import Link
from mizar.manager.nat_trace import Translation, ask, changes, parsed, port_of
from mizar.manager.outside_trace import Entrance
from mizar.model.addresses import ROUTER_MAC
from mizar.model.errors import TemporaryError
from mizar.trace.packet import Asked, build
from mizar.trace.report import Ending


async def chosen_by(link: Callable[[str], Link | None], way_in: Entrance, vpc: str) -> Translation | None:
    """None: nothing more than the manifest says; without `ending` and `back`: the instance cannot be asked."""
    (hop,) = way_in.before(vpc)
    if not way_in.arrives:
        return None
    sent = way_in.frame(bytes(6))
    try:
        found = await ask(link, way_in.droplet, way_in.uid, sent, outside=True)
    except TemporaryError as error:
        why = "; ".join(one.message for one in error.problems)
        return Translation(replace(hop, notes=(f"its instance cannot be asked: {why}",)))
    before, after = parsed(sent), parsed(found.frame)
    if found.fate != pb.TraceEngineReply.TRANSLATED or before is None or after is None:
        name = f"{way_in.owner.resource.tenant}/{way_in.owner.resource.name}"
        ending = Ending(False, f"dropped on {way_in.droplet} by load balancer {name}, {found.sentence}")
        return Translation(replace(hop, verdict="dropped", sentence=found.sentence), ending)
    own = after.source if found.known else next(one for one in way_in.own if len(one) == len(after.source))
    old = way_in.question.asked
    asked = Asked(old.protocol, port_of(after, 0), port_of(after, 2), old.size)
    back = build(asked, way_in.mac, own, after.destination)
    to = parsed(back)
    assert to is not None
    how = "the connection is known" if found.known else "a new connection, from this port if it is free"
    table = f"connections: {how}\n{hop.table}"
    return Translation(
        replace(hop, table=table, rewrite=changes(before, to)), None, ROUTER_MAC + way_in.mac + back[12:], found.known
    )
