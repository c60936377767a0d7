# SPDX-License-Identifier: Apache-2.0
"""A plan of tc filters in the kernel: whole or not at all, replaced without a packet between, removed again.

Called by the command line. A plan stands beside the one before it (its chains, marks and limits have other numbers)
until the first filter of chain 0 leads to it, which is replaced in one step; then the one before goes. That filter's
action carries the plan's digest. It must never touch filters of other blocks, chains and priorities.
"""

from __future__ import annotations

import errno
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pyroute2.netlink import nlmsg

from mizar.kernel import flower_words as words
from mizar.kernel import libbpf, namespaces
from mizar.kernel.flower_links import Links
from mizar.kernel.interfaces import find, get
from mizar.kernel.netlink import CREATE, EXCL, REPLACE, Message, Netlink, Order
from mizar.model.errors import ConflictError, InvalidError, MizarError, NotFoundError, TemporaryError
from mizar.pipeline.tc.lowering import LIMITS
from mizar.pipeline.tc.rules import BLOCK, Action, Filter, Plan, action

_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46
_NEWACTION, _DELACTION = 48, 49
_GETCHAIN = 102
_CLSACT, _CLSACT_HANDLE, _EGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF3
_BLOCK_INDEX = -1  # TCM_IFINDEX_MAGIC_BLOCK
_AT_ONCE = 50
_GENERATION_SHIFT = 20
GENERATIONS = (0x4D, 0x4E)
"""What chains, marks, limits and priorities are numbered by: others are unlikely to have these."""
_UNUSED_S, _POLL_S = 5.0, 0.01


class _TcMessage(nlmsg):  # type: ignore[misc]
    """struct tcmsg; options as bytes."""

    fields = (
        ("family", "B"),
        ("pad1", "B"),
        ("pad2", "H"),
        ("index", "i"),
        ("handle", "I"),
        ("parent", "I"),
        ("info", "I"),
    )
    nla_map = (
        (1, "TCA_KIND", "asciiz"),
        (2, "TCA_OPTIONS", "cdata"),
        (11, "TCA_CHAIN", "uint32"),
        (13, "BLOCK", "uint32"),
    )


class _ActionMessage(nlmsg):  # type: ignore[misc]
    """struct tcamsg."""

    fields = (("family", "B"), ("pad1", "B"), ("pad2", "H"))
    nla_map = ((1, "TCA_ACT_TAB", "cdata"),)


@dataclass(frozen=True)
class Applied:
    """What was done: nothing (`changed` is False), or filters by their number."""

    changed: bool
    filters: int


class TcBlock:
    """The shared block of one gateway, in the namespace of the calling thread."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._netlink = Netlink()

    def apply(self, plan_of: Callable[[int], Plan]) -> Applied:
        """Puts a plan in force; `plan_of` makes it for a generation. Raises InvalidError where the kernel lacks what
        it needs, ConflictError where a device is somebody else's; then nothing has changed."""
        plan = plan_of(GENERATIONS[0])
        digest = hashlib.sha256(json.dumps(plan.plain(), sort_keys=True).encode()).digest()[:16]
        before = self._root()
        if before is not None and before[1] == digest:
            return Applied(False, len(plan.filters))
        lacking = missing(plan)
        if lacking:
            raise InvalidError(f"this kernel has no {', '.join(lacking)}: tc cannot run the pipeline here")
        number = GENERATIONS[1 if before is not None and before[0] == GENERATIONS[0] else 0]
        plan = plan_of(number)
        links = Links(self._netlink, plan)
        links.check()
        self._owned(plan)
        self._clear(number)  # what an interrupted attempt has left
        bound = links.make()
        try:
            bound += self._bind(plan)
            self._fill(plan, digest)
        except MizarError:
            self._clear(number)
            for undo in reversed(bound):
                undo()
            raise
        if before is not None:
            self._clear(before[0])
        return Applied(True, len(plan.filters))

    def remove(self, plan: Plan) -> bool:
        """Takes everything away that a plan of these devices has put there; False when there was nothing."""
        there = self._root() is not None
        for device in plan.ingress:
            found = find(self._netlink, device)
            if found is not None and self._bound().get(found.index) == self._block:
                self._netlink.tell([(_qdisc(found.index, None), _DELQDISC, 0, f"take the filters off {device}")])
        for number in GENERATIONS:
            self._clear(number)
        Links(self._netlink, plan).remove()
        return there

    def close(self) -> None:
        """Closes the socket."""
        self._netlink.close()

    def __enter__(self) -> TcBlock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- what is there

    def _root(self) -> tuple[int, bytes] | None:
        """The generation that the first filter leads to, and the digest of its plan."""
        message = self._message(BLOCK, 0)
        try:
            answers = self._netlink.ask(message, _GETTFILTER, f"list the filters of block {self._block}", dump=True)
        except (InvalidError, NotFoundError):
            return None  # there is no such block
        for answer in answers:
            found = _read(answer)
            if found["info"] >> 16 != 1 or not found["handle"] or found.get_attr("TCA_CHAIN"):
                continue
            done = dict(_attributes(dict(_attributes(found.get_attr("TCA_OPTIONS"))).get(3, b""))).get(1, b"")
            parts = dict(_attributes(done))
            lead = int.from_bytes(dict(_attributes(parts.get(2, b""))).get(2, bytes(12))[8:12], "little")
            return (lead & (1 << 28) - 1) >> _GENERATION_SHIFT, parts.get(6, b"")
        return None

    def _bound(self) -> dict[int, int]:
        """The block of each interface with a clsact, 0: none."""
        found = {}
        for answer in self._netlink.ask(_TcMessage(), _GETQDISC, "list the queueing disciplines", dump=True):
            one = _read(answer)
            if one.get_attr("TCA_KIND") == "clsact":
                found[one["index"]] = one.get_attr("BLOCK") or 0
        return found

    def _owned(self, plan: Plan) -> None:
        """Raises ConflictError where a device's ingress has filters that are not of this block."""
        there = self._bound()
        for device in plan.ingress:
            found = find(self._netlink, device)
            if found is not None and there.get(found.index, self._block) != self._block:
                raise ConflictError(f"{device} has a clsact of its own: tc's block {self._block} cannot be bound to it")

    def _bind(self, plan: Plan) -> list[Callable[[], None]]:
        """The block to all devices, and a clsact where frames leave; how to undo what was new."""
        there = self._bound()
        undo: list[Callable[[], None]] = []
        leaving = {one.place for one in plan.filters if one.place != BLOCK} - set(plan.ingress)
        for device in (*plan.ingress, *sorted(leaving)):
            index = get(self._netlink, device).index
            if index not in there:
                block = self._block if device in plan.ingress else None
                what = f"bind block {self._block} to {device}"
                self._netlink.tell([(_qdisc(index, block), _NEWQDISC, CREATE | EXCL, what)])
                undo.append(partial(self._netlink.tell, [(_qdisc(index, None), _DELQDISC, 0, f"unbind {device}")]))
        return undo

    # ---- orders

    def _fill(self, plan: Plan, digest: bytes) -> None:
        """Limits, chains, the filters of tunnel devices and egresses; at last the first filter."""
        devices = {name: get(self._netlink, name).index for name in _devices(plan)}
        orders: list[Order] = []
        for limit in plan.policers:
            message = _ActionMessage()
            message["attrs"] = [("TCA_ACT_TAB", words.policer(limit))]
            orders.append((message, _NEWACTION, CREATE | EXCL, f"make the limit {limit.name}"))
        root = None
        for one in plan.filters:
            if one.place == BLOCK and one.chain == 0 and one.priority == 1:
                root = one
            else:
                orders.append(self._order(one, devices, CREATE | EXCL))
        for at in range(0, len(orders), _AT_ONCE):
            self._netlink.tell(orders[at : at + _AT_ONCE])
        assert root is not None
        lead = Action("gact", (*root.actions[0].conf, ("cookie", digest.hex())))
        first = Filter(root.spot, BLOCK, 0, 1, root.classifier, root.protocol, root.fields, (lead,))
        message, kind, _, what = self._order(first, devices, 0)
        message["handle"] = 1
        self._netlink.tell([(message, kind, CREATE | REPLACE, what)])

    def _order(self, one: Filter, devices: dict[str, int], flags: int) -> Order:
        message = self._message(one.place, one.chain, devices)
        message["info"] = one.priority << 16 | _swapped(words.PROTOCOLS[one.protocol])
        message["handle"] = 0 if one.mark is None else one.mark[0]
        message["attrs"] += [("TCA_KIND", one.classifier), ("TCA_OPTIONS", words.options(one, devices))]
        return message, _NEWTFILTER, flags, f"add the filter {one.command(self._block)!r}"

    def _clear(self, number: int) -> None:
        """Takes a generation away, as far as it is there."""
        egresses = {str(index): index for index in self._bound()}
        for place in (BLOCK, *egresses):
            leads = [(10 + number, "fw"), (20 + number, "matchall")] if place == BLOCK else [(10 + number, "fw")]
            for priority, kind in leads:
                message = self._message(place, 0, egresses)
                message["info"] = priority << 16 | _swapped(words.PROTOCOLS["all"])
                message["attrs"].append(("TCA_KIND", kind))
                self._quietly((message, _DELTFILTER, 0, f"take priority {priority} away"))
            for chain in self._chains(place, egresses):
                if chain >> _GENERATION_SHIFT == number:
                    self._quietly((self._message(place, chain, egresses), _DELTFILTER, 0, f"take chain {chain} away"))
        index = LIMITS + (number << _GENERATION_SHIFT) + 1
        while self._limit_gone(index):
            index += 1

    def _limit_gone(self, index: int) -> bool:
        """Deletes a limit; False when there is none. Filters that are gone let go of theirs a moment later."""
        end = time.monotonic() + _UNUSED_S
        while True:
            message = _ActionMessage()
            message["attrs"] = [("TCA_ACT_TAB", words.policer_name(index))]
            try:
                self._netlink.tell([(message, _DELACTION, 0, f"take limit {index} away")])
                return True
            except NotFoundError:
                return False
            except MizarError as error:
                if libbpf.errno_of(error) not in (errno.EPERM, errno.EBUSY) or time.monotonic() > end:
                    return False
            time.sleep(_POLL_S)

    def _chains(self, place: str, devices: dict[str, int]) -> list[int]:
        """Chains of a place, later ones last: what leads to a chain goes before it."""
        message = self._message(place, None, devices)
        try:
            answers = self._netlink.ask(message, _GETCHAIN, f"list the chains of {place}", dump=True)
        except (InvalidError, NotFoundError):
            return []
        return sorted(_read(answer).get_attr("TCA_CHAIN") or 0 for answer in answers)

    def _quietly(self, order: Order) -> None:
        """An order whose object may be gone, or may be used still by what goes with its device."""
        try:
            self._netlink.tell([order])
        except (NotFoundError, InvalidError, ConflictError, TemporaryError):
            return

    def _message(self, place: str, chain: int | None, devices: dict[str, int] | None = None) -> Message:
        message = _TcMessage()
        if place == BLOCK:
            message["index"], message["parent"] = _BLOCK_INDEX, self._block
        else:
            message["index"], message["parent"] = (devices or {})[place], _EGRESS
        message["attrs"] = [] if chain is None else [("TCA_CHAIN", chain)]
        return message


def missing(plan: Plan) -> list[str]:
    """Classifiers and actions of a plan that this kernel does not have, tried in a namespace of their own."""
    kinds: dict[str, Action] = {}
    for one in plan.filters:
        for done in one.actions:
            kinds.setdefault(done.kind.partition(" ")[0], done)
    with namespaces.anonymous() as place, Netlink(place) as netlink:
        netlink.tell([(_qdisc(1, None), _NEWQDISC, CREATE | EXCL, "add a clsact")])
        lacking: list[str] = []
        tries = {name: _tried(name, action("gact", "pass")) for name in ("flower", "fw", "matchall")}
        tries |= {f"act_{name}": _tried("matchall", done) for name, done in kinds.items() if name != "police"}
        for name, (message, data) in tries.items():
            if name.startswith("act_") and lacking:
                break  # an action cannot be tried without a filter
            message["attrs"] = [*message["attrs"], ("TCA_OPTIONS", data)]
            try:
                netlink.tell([(message, _NEWTFILTER, CREATE | EXCL, f"try {name}")])
            except NotFoundError:
                lacking.append(name)
            except MizarError as error:
                if libbpf.errno_of(error) != 0:
                    lacking.append(name)
    return lacking


def _tried(classifier: str, done: Action) -> tuple[Message, bytes]:
    message = _TcMessage()
    message["index"], message["parent"], message["handle"] = 1, _EGRESS, 1
    message["info"] = (100 + _tried_number(classifier, done)) << 16 | _swapped(words.PROTOCOLS["all"])
    message["attrs"] = [("TCA_KIND", classifier)]
    names = {str(done.get("dev")): 1}
    mark = (1, 0xFFFFFFFF) if classifier == "fw" else None
    return message, words.options(Filter("", "lo", 0, 1, classifier, "all", (), (done,), mark), names)


def _tried_number(classifier: str, done: Action) -> int:
    return sum(f"{classifier} {done}".encode()) % 10000


def _devices(plan: Plan) -> set[str]:
    used = {str(done.get("dev")) for one in plan.filters for done in one.actions if done.get("dev") is not None}
    return used | {one.place for one in plan.filters if one.place != BLOCK} | set(plan.ingress)


def _qdisc(index: int, block: int | None) -> Message:
    message = _TcMessage()
    message["index"], message["handle"], message["parent"] = index, _CLSACT_HANDLE, _CLSACT
    message["attrs"] = [("TCA_KIND", "clsact"), *([("BLOCK", block)] if block else [])]
    return message


def _read(answer: Message) -> Message:
    message = _TcMessage(answer.data, offset=answer.offset)
    message.decode()
    return message


def _attributes(data: object) -> Iterator[tuple[int, bytes]]:
    """Attributes of a nest."""
    raw = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b""
    at = 0
    while at + 4 <= len(raw):
        length, kind = (
            int.from_bytes(raw[at : at + 2], "little"),
            int.from_bytes(raw[at + 2 : at + 4], "little") & 0x3FFF,
        )
        if length < 4:
            return
        yield kind, raw[at + 4 : at + length]
        at += (length + 3) & ~3


def _swapped(protocol: int) -> int:
    return int.from_bytes(protocol.to_bytes(2, "big"), "little")
