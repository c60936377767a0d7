# SPDX-License-Identifier: Apache-2.0
"""DdosProtections: what droplets are told of them, and what they tell.

Asked by mizar.manager.functions, which tells droplets, and by the manager. A protection is on the droplets
that have something of its scopes, as any function is; there it has a number. It must never decide what is dropped: the
function ddos-protection does, on each droplet for itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

from mizar._built import transit_pb2 as pb
from mizar.manager.protection_events import ProtectionEvents, source_of, time_text
from mizar.manager.protections import FUNCTION
from mizar.manager.registry import Item, Registry
from mizar.model.ddos import DdosProtection, Mode
from mizar.model.errors import TemporaryError
from mizar.model.function import Attachment, Named
from mizar.model.function_object import STAGES
from mizar.model.resources import Ref

ORDER = -1000
"""Before the functions of the operator's, unless these say otherwise: what is dropped first costs least."""
MOST = 63
_FULL = (
    f"the droplet takes {MOST} protections, evenly from all tenants, and takes no more: nothing is kept from its "
    "endpoints by this one"
)
_NO_COOKIES = (
    "not in a namespace that the daemon has found on the droplet: who connects is made to send the SYN again, instead"
)
_MODES: dict[Mode, int] = {"off": 0, "auto": 1, "always": 3}
_REFLECTED = 4
_EGRESS, _INGRESS = 6, 5  # enum function_stage
ScopeOf = Callable[[Attachment], pb.FunctionScope | None]


def scopes_of(protection: DdosProtection) -> list[Attachment]:
    """Whom it is for, as functions say it."""
    spec, tenant = protection.spec, protection.tenant
    found = [Attachment(endpoint=Named(tenant=tenant, name=name)) for name in spec.endpoints]
    found += [Attachment(group=Named(tenant=tenant, name=name)) for name in spec.groups]
    found += [Attachment(network=Named(tenant=tenant, name=name)) for name in spec.networks]
    return found or [Attachment(vpc=Named(tenant=tenant, name=spec.vpc))]


def _precedence(item: Item) -> tuple[bool, Ref]:
    """Of two that mean the same scope, which comes first: one that is for some droplets, then by name."""
    protection = item.resource
    return not (isinstance(protection, DdosProtection) and protection.spec.droplets), item.ref


class Protections:
    """Numbers of protections on droplets, the lists in hand, and what droplets said last."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, int]] = {}
        self._messages: dict[str, tuple[int, pb.DdosProtection]] = {}
        self._lists: dict[bytes, bytes] = {}
        self._last: dict[str, dict[str, pb.DdosStatus]] = {}
        self._left_out: dict[str, set[str]] = {}
        self._events = ProtectionEvents()

    def wanted(
        self, registry: Registry, droplets: Callable[[Attachment], set[str]], scope_of: ScopeOf
    ) -> Iterator[tuple[str, dict[str, pb.DdosProtection], list[pb.FunctionScope]]]:
        """Of each droplet that has some: the protections by TENANT/NAME, and the scopes of the function."""
        found: dict[str, list[tuple[Item, list[Attachment]]]] = {}
        for item in sorted(registry.of_kind("DdosProtection"), key=_precedence):
            if item.deleting or not isinstance(item.resource, DdosProtection):
                continue
            for attached in scopes_of(item.resource):
                for name in filter(item.resource.spec.is_on, droplets(attached)):
                    rows = found.setdefault(name, [])
                    if not rows or rows[-1][0] is not item:
                        rows.append((item, []))
                    rows[-1][1].append(attached)
        self._left_out.clear()
        for droplet, rows in found.items():
            numbers = self._number(droplet, [(item.ref.tenant, item.uid) for item, _ in rows])
            for item, _ in rows:
                if item.uid not in numbers:
                    self._left_out.setdefault(item.uid, set()).add(droplet)
            messages: dict[str, pb.DdosProtection] = {}
            scopes: list[pb.FunctionScope] = []
            taken: set[bytes] = set()
            for item, attachments in rows:
                if item.uid not in numbers:
                    continue
                message = messages[item.ref.tenant + "/" + item.ref.name] = pb.DdosProtection()
                message.CopyFrom(self._message(item))
                message.number = numbers[item.uid]
                for told in map(scope_of, attachments):
                    if told is not None and (whom := told.SerializeToString(deterministic=True)) not in taken:
                        taken.add(whom)
                        told.value = message.number
                        scopes.append(told)
            if scopes:
                yield droplet, messages, scopes

    def _number(self, droplet: str, wanted: Sequence[tuple[str, str]]) -> dict[str, int]:
        """Numbers by uid, of tenants and uids in their order. Where there is no room for all, each tenant has one
        before any has two, and so on: nobody fills a droplet for others. What is there stays, as far as that goes."""
        before = self._numbers.get(droplet, {})
        of_tenant: Counter[str] = Counter()
        turns = []
        for tenant, uid in sorted(wanted, key=lambda one: one[1] not in before):
            of_tenant[tenant] += 1
            turns.append((of_tenant[tenant], uid not in before, uid))
        chosen = {uid for _, _, uid in sorted(turns, key=lambda one: one[:2])[:MOST]}
        kept = {uid: before[uid] for _, uid in wanted if uid in before and uid in chosen}
        free = (number for number in range(1, MOST + 1) if number not in set(kept.values()))
        new = [uid for _, uid in wanted if uid in chosen and uid not in kept]
        self._numbers[droplet] = kept | dict(zip(new, free, strict=False))
        return self._numbers[droplet]

    def _message(self, item: Item) -> pb.DdosProtection:
        generation, message = self._messages.get(item.uid, (0, None))
        if message is not None and generation == item.resource.metadata.generation:
            return message
        protection = item.resource
        assert isinstance(protection, DdosProtection)
        message = _message(protection)
        message.uid = item.uid
        block, allow = protection.spec.packed
        message.block_digest = self._keep(block) if block else b""
        message.allow_digest = self._keep(allow) if allow else b""
        changed = item.uid in self._messages
        self._messages[item.uid] = protection.metadata.generation, message
        if changed:
            self._drop_lists()
        return message

    def _keep(self, packed: bytes) -> bytes:
        digest = sha256(packed).digest()
        self._lists[digest] = packed
        return digest

    def give_lists(
        self, messages: Iterable[pb.DdosProtection], missing: Collection[bytes], most: int
    ) -> list[pb.DdosProtection]:
        """Those for which a droplet lacks lists, with them: as many as have lists of `most` bytes, but one at least.
        Raises TemporaryError for a list that has gone meanwhile."""
        found: list[pb.DdosProtection] = []
        used = 0
        for message in messages:
            lacking = {message.block_digest, message.allow_digest} & {*missing}
            if not lacking:
                continue
            if not lacking <= self._lists.keys():
                raise TemporaryError(f"a list of protection {message.name} has changed meanwhile")
            block, allow = (
                self._lists[one] if one in lacking else b"" for one in (message.block_digest, message.allow_digest)
            )
            if found and used + len(block) + len(allow) > most:
                continue
            used += len(block) + len(allow)
            given = pb.DdosProtection()
            given.CopyFrom(message)
            given.block, given.allow = block, allow
            found.append(given)
        return found

    def forget(self, uid: str) -> None:
        """The protection is gone."""
        self._last.pop(uid, None)
        self._events.forget(uid)
        self._messages.pop(uid, None)
        self._drop_lists()

    def _drop_lists(self) -> None:
        """Those that no protection has any more."""
        used = {digest for _, one in self._messages.values() for digest in (one.block_digest, one.allow_digest)}
        self._lists = {digest: packed for digest, packed in self._lists.items() if digest in used}

    # ---- what droplets tell

    def take(self, droplet: str, found: pb.DdosStatus) -> bool:
        """News of a protection; whether a measure was engaged or withdrawn by them."""
        before = self._last.setdefault(found.uid, {}).get(droplet)
        self._last[found.uid][droplet] = found
        return self._events.take(droplet, before, found) or before is None

    def said(self, uid: str, droplet: str) -> pb.DdosStatus | None:
        """What a droplet said last of a protection."""
        return self._last.get(uid, {}).get(droplet)

    def view(
        self, registry: Registry, item: Item, droplets: Collection[str], refused: list[dict[str, str]]
    ) -> dict[str, Any]:
        """What the status of a protection says."""
        known = self._last.get(item.uid, {})
        _, message = self._messages.get(item.uid, (0, pb.DdosProtection()))
        stages = [STAGES[stage] for stage in _stages([message])]
        rows = [_row(registry, name, known.get(name)) | {"stages": stages} for name in sorted(droplets)]
        state = "" if not rows else "engaged" if any(row["engaged"] for row in rows) else "quiet"
        full = [{"droplet": name, "reason": _FULL} for name in sorted(self._left_out.get(item.uid, ()))]
        protection = item.resource
        if (
            isinstance(protection, DdosProtection)
            and (cookies := protection.spec.syn_cookies)
            and cookies.mode != "off"
        ):
            for row in rows:
                if row.get("cookieEndpoints", 0) < row.get("endpoints", 0):
                    lacking = row["endpoints"] - row["cookieEndpoints"]
                    row["withoutCookies"] = f"{lacking} of {row['endpoints']} endpoints: {_NO_COOKIES}"
        events = list(self._events.of(item.uid, lambda uid: _endpoint(registry, uid)))
        return {"state": state, "droplets": rows, "refused": [*refused, *full], "events": events}


def _row(registry: Registry, droplet: str, found: pb.DdosStatus | None) -> dict[str, Any]:
    row: dict[str, Any] = {"droplet": droplet, "engaged": []}
    if found is None:
        return row
    row["engaged"] = [name for name, on in (("synCookies", found.cookies), ("reflection", found.filter)) if on]
    for name, since, until in (
        ("synCookies", found.cookies_since_unix_ms, found.cookies_until_unix_ms),
        ("reflection", found.filter_since_unix_ms, found.filter_until_unix_ms),
    ):
        if since:
            end = "until" if name in row["engaged"] else "withdrawnAt"
            row[name] = {"engagedAt": time_text(since), end: time_text(until)}
    row["counts"] = {one.kind: {"packets": one.packets, "bytes": one.bytes} for one in found.counts if one.packets}
    row["endpoints"], row["cookieEndpoints"] = found.endpoints, found.cookie_endpoints
    row["top"] = [
        {
            "source": source_of(one),
            "kind": one.kind,
            "packets": one.packets,
            "target": _endpoint(registry, one.endpoint),
        }
        for one in found.top
    ]
    return row


def _endpoint(registry: Registry, uid: str) -> str:
    item = registry.by_uid(uid) if uid else None
    return item.resource.name if item is not None else ""


def function_of(
    protections: Iterable[pb.DdosProtection], scopes: Iterable[pb.FunctionScope]
) -> tuple[pb.Function, bytes]:
    """The function for these, and its object. It is at endpoints' egress only where answers have to be told apart."""
    code = files("mizar").joinpath("_built", "objects", "ddos_protection.o").read_bytes()
    stages = _stages(protections)
    found = sorted(scopes, key=lambda scope: scope.SerializeToString(deterministic=True))
    return pb.Function(name=FUNCTION, digest=sha256(code).digest(), order=ORDER, stages=stages, scopes=found), code


def _stages(protections: Iterable[pb.DdosProtection]) -> list[int]:
    return [_INGRESS, *([_EGRESS] if any(one.flags & _REFLECTED for one in protections) else [])]


def _message(protection: DdosProtection) -> pb.DdosProtection:
    spec = protection.spec
    cookies, reflection = spec.syn_cookies, spec.reflection
    source, target = spec.per_source, spec.per_target
    flags = _MODES[cookies.mode] if cookies else 0
    flags |= _MODES[reflection.mode] * _REFLECTED if reflection else 0
    return pb.DdosProtection(
        name=f"{protection.tenant}/{protection.name}",
        flags=flags,
        source_packets=(source.packets_per_s or 0) if source else 0,
        source_bytes=(source.bytes_per_s or 0) if source else 0,
        target_packets=(target.packets_per_s or 0) if target else 0,
        target_bytes=(target.bytes_per_s or 0) if target else 0,
        burst_ms=spec.burst_ms,
        syns=cookies.syns_per_s if cookies else 0,
        reflected=reflection.packets_per_s if reflection else 0,
        hold_s=spec.hold_s,
        ports=reflection.ports if reflection else (),
    )
