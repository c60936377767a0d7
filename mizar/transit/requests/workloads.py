# SPDX-License-Identifier: Apache-2.0
"""Where the other side of an endpoint is: in a namespace, behind a tap, or at a port of Open vSwitch."""

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError
from mizar.transit.workloads import InNamespace, NamespaceBy, OvsPort, Tap, Workload

_MAX_PATH = 120  # what the alias of an interface has room for, beside the uid
_MAX_PID = 1 << 22
_MAX_INTERFACE = 15
_MAX_USER = 2**32 - 2
_MAX_QUEUES = 16
_MAX_VLAN = 4094


def workload(message: pb.Workload) -> Workload:
    """Where an endpoint's own side is."""
    if message.WhichOneof("place") == "tap":
        return tap(message.tap)
    if message.WhichOneof("place") == "ovs":
        return ovs(message.ovs)
    interface = message.interface or "eth0"
    if len(interface.encode()) > _MAX_INTERFACE or interface in (".", "..", "lo") or not _is_word(interface, "/:%"):
        raise InvalidError(f"{interface[:32]!r} cannot name an interface; expected 1 to {_MAX_INTERFACE} letters")
    match message.WhichOneof("place"):
        case "name" | "pool" as place:
            name = getattr(message, place)
            if len(name.encode()) > _MAX_PATH or name in (".", "..") or not _is_word(name, "/"):
                raise InvalidError(f"{name[:_MAX_PATH]!r} is no name of a namespace under /run/netns")
            return InNamespace(NamespaceBy[place.upper()], name, interface, message.self_configured)
        case "path":
            path = message.path
            if not path.startswith("/") or len(path.encode()) > _MAX_PATH or not path.isprintable():
                raise InvalidError(f"the namespace's path must be absolute, printable, at most {_MAX_PATH} bytes")
            return InNamespace(NamespaceBy.PATH, path, interface, message.self_configured)
        case "pid":
            if not 1 <= message.pid <= _MAX_PID:
                raise InvalidError(f"pid {message.pid} is outside of 1 to {_MAX_PID}")
            return InNamespace(NamespaceBy.PID, str(message.pid), interface, message.self_configured)
    raise InvalidError("the workload names no place; set name, pool, path, pid, tap or ovs")


def tap(message: pb.Tap) -> Tap:
    """A tap device. Its agent's pin bears its name, which therefore has no dot."""
    name = message.name
    if len(name.encode()) > _MAX_INTERFACE or name.startswith("-") or (name and not _is_word(name, "/:%.")):
        raise InvalidError(f"{name[:32]!r} cannot name a tap; expected at most {_MAX_INTERFACE} letters, no dot")
    if message.owner > _MAX_USER:
        raise InvalidError(f"owner {message.owner} is no user id; expected 0 to {_MAX_USER}")
    if message.queues > _MAX_QUEUES:
        raise InvalidError(f"{message.queues} queues are more than the {_MAX_QUEUES} that a tap may have")
    return Tap(name, message.owner, message.queues or 1)


def ovs(message: pb.OvsPort) -> OvsPort:
    """A port of an Open vSwitch bridge."""
    for name, what in ((message.bridge, "a bridge"), (message.port or "any", "a port")):
        if len(name.encode()) > _MAX_INTERFACE or name in (".", "..", "-") or not _is_word(name, "/:%"):
            raise InvalidError(f"{name[:32]!r} cannot name {what}; expected 1 to {_MAX_INTERFACE} letters")
    if message.vlan > _MAX_VLAN:
        raise InvalidError(f"VLAN {message.vlan} is outside of 1 to {_MAX_VLAN}; 0 is none")
    return OvsPort(message.bridge, message.port, message.vlan)


def _is_word(text: str, excluded: str) -> bool:
    return bool(text) and text.isprintable() and not any(c.isspace() or c in excluded for c in text)
