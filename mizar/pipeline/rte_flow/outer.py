# SPDX-License-Identifier: Apache-2.0
"""Which headers stand outside where a step is done: rte_flow wants to know, the description does not say.

Called by `compile`. What a rule's own pattern does not show is taken from the ways that the validator follows, where
they agree. Pure.
"""

from __future__ import annotations

from mizar.pipeline.description import Spot
from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.steps import Decap, Encap, PopVlan, PushVlan, Step
from mizar.pipeline.ways import Ways

Shape = tuple[str, ...]


def outer_headers(shape: Shape, ways: Ways, spot: Spot) -> Shape | None:
    """Everything up to the outermost tunnel; None where there is none, or where ways differ."""
    own = _up_to_tunnel(shape)
    if own is not None:
        return own
    found = {_up_to_tunnel(state.box.shape) for state in ways.before.get(spot, ())}
    return found.pop() if len(found) == 1 else None


def shape_after(shape: Shape, step: Step) -> Shape:
    """What is known of the headers behind a step."""
    match step:
        case PopVlan() if shape[1:2] == ("vlan",):
            return shape[:1] + shape[2:]
        case PushVlan():
            return (shape[0], "vlan", *shape[1:])
        case Encap():
            return ("eth", *(("vlan",) if step.vlan else ()), "ipv4", "udp", step.tunnel, *shape)
        case Decap():
            outside = _up_to_tunnel(shape) or shape
            return shape[len(outside) :] or ("eth",)
    return shape


def _up_to_tunnel(shape: Shape) -> Shape | None:
    at = next((index for index, kind in enumerate(shape) if kind in TUNNELS), None)
    return None if at is None else shape[: at + 1]
