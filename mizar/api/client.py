# SPDX-License-Identifier: Apache-2.0
"""The client of Mizar's REST API, for the CLI, the lab and anybody's scripts.

Owns how requests travel (unix socket, loopback, mutual TLS) and which error a reply becomes; called by mizar.cli,
mizar.lab and tests. It must never know the store or the manager: all it sees is HTTP.

Errors, split by what the caller does next (all are mizar.model.errors.MizarError, with `.problems`):
  InvalidError    the request is wrong; every error is listed
  ConflictError   something is taken or still in use
  NotFoundError   no such object, or none that this caller may see
  ExhaustedError  no address, VNI or droplet is left
  TemporaryError  the server or a daemon cannot be reached, or a wait ran out of time: try again
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

import httpx

from mizar.api.paths import collection_path, object_path
from mizar.api.problems import error_for
from mizar.model.errors import InvalidError, MizarError, NotFoundError, Problem, TemporaryError
from mizar.model.resources import Ref, Resource, dump, kind_named

DEFAULT_URL = "unix:///run/mizar/server.sock"

Manifest = dict[str, Any]
Manifests = list[Manifest]

_SILENCE_S = 60.0
"""How long a watch may be silent: the server says "alive" each second, but not while it takes a very large apply."""
_AUDIT_S = 330.0
_BATCH = 16
"""From this many objects of one kind on, a wait lists the kind instead of asking for each."""


class Client:
    """A connection to one server; a context manager. Not for use by several threads at once.

    `url` is `unix:///path`, `http://127.0.0.1:port` or `https://host:port`; the last needs the three certificate
    files that `mizar pki` makes.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        parts = urlsplit(url)
        self._url = url
        if parts.scheme == "unix" and parts.path and not parts.netloc:
            transport, base = httpx.HTTPTransport(uds=parts.path), "http://mizar"
        elif parts.scheme == "http" and parts.hostname:
            transport, base = httpx.HTTPTransport(), url
        elif parts.scheme == "https" and parts.hostname:
            transport, base = httpx.HTTPTransport(verify=_tls(ca, certificate, key)), url
        else:
            raise InvalidError(f"{url!r} is no address of a server: expected unix:///path, http://… or https://…")
        self._http = httpx.Client(transport=transport, base_url=base, timeout=timeout_s)

    def apply(self, resources: Sequence[Resource | Mapping[str, Any]], dry_run: bool = False) -> Manifests:
        """Applies all manifests or none; per manifest {"kind", "tenant", "name", "change": created|changed|unchanged}.

        Raises InvalidError, ConflictError or ExhaustedError whose `.problems` name the manifest by `index`.
        """
        manifests = [dump(entry, secrets=True) if isinstance(entry, Resource) else dict(entry) for entry in resources]
        reply = self._call("POST", "/v1/apply", {"resources": manifests, "dryRun": dry_run})
        results: Manifests = reply["results"]
        return results

    def preview(self, resources: Sequence[Resource | Mapping[str, Any]]) -> Manifest:
        """What an apply would do: "objects", "droplets", "reach", "flows", "notes" (docs/preview.md). Raises as it."""
        manifests = [dump(entry, secrets=True) if isinstance(entry, Resource) else dict(entry) for entry in resources]
        return self._call("POST", "/v1/preview", {"resources": manifests})

    def list(self, kind: str, tenant: str | None = None) -> Manifests:
        """All objects of a kind, with metadata and status, by tenant and name. `kind` in any of its spellings."""
        items: Manifests = self._call("GET", collection_path(kind_named(kind), tenant))["items"]
        return items

    def get(self, kind: str, name: str, tenant: str | None = None) -> Manifest:
        """One object with metadata and status. Raises NotFoundError."""
        return self._call("GET", object_path(kind_named(kind), tenant, name))

    def delete(
        self, kind: str, name: str, tenant: str | None = None, *, cascade: bool = False, force: bool = False
    ) -> Manifest:
        """Begins a deletion and returns the object as it now is (phase Deleting); `wait(..., until="gone")` follows it.

        `cascade` deletes what is inside of it too; without it ConflictError names the children. `force` is for a
        droplet that will never answer again: what it held counts as gone.
        """
        query = "&".join(name for name, wanted in (("cascade=true", cascade), ("force=true", force)) if wanted)
        path = object_path(kind_named(kind), tenant, name)
        return self._call("DELETE", f"{path}?{query}" if query else path)

    def move(self, name: str, tenant: str, droplet: str) -> Manifest:
        """Begins to move an endpoint to another droplet; `status.move` of what is returned tells how far it is."""
        path = object_path(kind_named("Endpoint"), tenant, name)
        return self._call("POST", f"{path}/move", {"droplet": droplet})

    def wait(
        self, refs: Sequence[Ref], timeout_s: float, until: Literal["Provisioned", "gone"] = "Provisioned"
    ) -> Manifests:
        """Waits until all objects (`resource.ref`) are there, or gone; returns them as they then are.

        Raises InvalidError as soon as one has Failed for good (with its reason), TemporaryError when the time is up
        (with what each unfinished object waits for), NotFoundError when one that should be provisioned does not exist.
        """
        order = tuple(refs)
        found: dict[Ref, Manifest | None] = {}
        pending = set(order)
        for change in self.watch(timeout_s):
            if change["type"] == "ready":  # from here on no change can be missed
                news = self._snapshot(pending)
            elif change["type"] != "alive" and (key := _key(change["object"])) in found:
                news = {key: None if change["type"] == "gone" else change["object"]}
            else:
                continue
            found |= news
            for key, manifest in news.items():
                (pending.discard if _reached(key, manifest, until) else pending.add)(key)
            if not pending:
                return [manifest for key in order if (manifest := found[key]) is not None]
        raise TemporaryError([_unfinished(key, found.get(key), until) for key in order if key in pending])

    def watch(self, timeout_s: float) -> Iterator[Manifest]:
        """Changes from now on: {"type": "ready"|"changed"|"gone"|"alive", "object": {...}}; ends when time is up.

        "ready" comes first and "alive" at least every second; of an object that changes quickly, intermediate states
        may be left out.
        """
        deadline = time.monotonic() + timeout_s
        for change in self._lines("/v1/watch", {}, "watch"):
            yield change
            if time.monotonic() >= deadline:
                return

    def events(self, wish: Mapping[str, str | Sequence[str] | None]) -> Iterator[Manifest]:
        """What droplets see from now on; `wish` has the query of GET /v1/events. {"type": "ready"} comes first and
        {"type": "alive"} when nothing else does."""
        return self._lines("/v1/events", {key: value for key, value in wish.items() if value}, "events")

    def _lines(self, path: str, query: Mapping[str, Any], what: str) -> Iterator[Manifest]:
        try:
            with self._http.stream("GET", path, params=query, timeout=_SILENCE_S) as reply:
                if reply.status_code != httpx.codes.OK:
                    reply.read()
                    raise error_for(reply.status_code, _json_of(reply))
                for line in reply.iter_lines():
                    if line:
                        yield json.loads(line)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        raise TemporaryError(f"the server at {self._url} ended the {what}; it is restarting or gone")

    def traffic(self) -> Manifest:
        """What all droplets have counted: {"time", "droplets", "drops", "vpcs", "endpoints"}, as far as one may see."""
        return self._call("GET", "/v1/traffic")

    def counters(self, droplet: str) -> Manifest:
        """The droplet's counters as its daemon tells them: {"endpoints": [...], "vpcs": [...], "drops": [...]}."""
        return self._call("GET", f"{object_path(kind_named('Droplet'), None, droplet)}/counters")

    def logs(self, tenant: str, name: str, after: Mapping[str, str], most: int) -> Manifest:
        """What instances of an HTTP load balancer logged: {"instances": [{"instance", "lines", "next", "reason"}]}."""
        query: dict[str, int | list[str]] = {"most": most}
        query["after"] = [f"{instance}={place}" for instance, place in after.items()]
        path = object_path(kind_named("HttpLoadBalancer"), tenant, name)
        return self._call("GET", f"{path}/logs?{httpx.QueryParams(query)}")

    def functions(self, droplet: str) -> Manifest:
        """What functions the droplet has, as its daemon tells: {"functions": [...], "room": ...}."""
        return self._call("GET", f"{object_path(kind_named('Droplet'), None, droplet)}/functions")

    def function_maps(self, droplet: str, function: str) -> Manifest:
        """A function's own maps on the droplet: {"maps": [{"name", "type", "entries", "keySize", "valueSize"}]}."""
        return self._call("GET", self._maps_path(droplet, function))

    def function_map(self, droplet: str, function: str, name: str, most: int) -> Manifest:
        """One of them, with what it holds: {"name", ..., "rows": [{"key", "value"}], "more": ...}."""
        return self._call("GET", f"{self._maps_path(droplet, function)}/{quote(name, safe='')}?most={most}")

    def _maps_path(self, droplet: str, function: str) -> str:
        return f"{object_path(kind_named('Droplet'), None, droplet)}/functions/{quote(function, safe='')}/maps"

    def audit(self, droplet: str, *, repair: bool = False) -> Manifest:
        """Compares what the droplet holds with what is wanted of it: {"reached", "reason", "findings": [...], ...}.

        With `repair` it is mended. May take minutes for a large droplet.
        """
        path = f"{object_path(kind_named('Droplet'), None, droplet)}/audit"
        return self._call("POST", path, {"repair": repair}, timeout_s=_AUDIT_S)

    def state(self, droplet: str) -> Manifest:
        """What the droplet's tables hold, read from the kernel, in the shape of transit.proto's State (as JSON)."""
        return self._call("GET", f"{object_path(kind_named('Droplet'), None, droplet)}/state")

    def trace(self, question: Manifest) -> Manifest:
        """Which way a packet takes and why: {"hops": [...], "ending", "ok", ...}; asked as POST /v1/traces has it.

        Raises NotFoundError or InvalidError when nobody is meant, TemporaryError when the source's droplet is silent.
        """
        return self._call("POST", "/v1/traces", question)

    def health(self) -> Manifest:
        """{"status": "ok", "version": ...}; raises TemporaryError when nobody answers."""
        return self._call("GET", "/healthz")

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _snapshot(self, keys: set[Ref]) -> dict[Ref, Manifest | None]:
        found: dict[Ref, Manifest | None] = {}
        groups: dict[tuple[str, str], list[Ref]] = {}
        for key in keys:
            groups.setdefault((key.kind, key.tenant), []).append(key)
        for (kind, tenant), group in groups.items():
            if len(group) >= _BATCH:
                listed = {_key(manifest): manifest for manifest in self.list(kind, tenant)}
                found |= {key: listed.get(key) for key in group}
                continue
            for key in group:
                try:
                    found[key] = self.get(kind, key.name, tenant)
                except NotFoundError:
                    found[key] = None
        return found

    def _call(self, method: str, path: str, body: Manifest | None = None, timeout_s: float | None = None) -> Manifest:
        try:
            wait = self._http.timeout if timeout_s is None else timeout_s
            reply = self._http.request(method, path, json=body, timeout=wait)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        found = _json_of(reply)
        if not reply.is_success or not isinstance(found, dict):
            raise error_for(reply.status_code, found)
        return found

    def _unreachable(self, error: httpx.HTTPError) -> MizarError:
        if isinstance(error, httpx.ReadTimeout):
            return TemporaryError(f"the server at {self._url} did not answer in time")
        if isinstance(_root_of(error), PermissionError):
            return MizarError(f"the server at {self._url} is another user's: run this as root, or as that user")
        return TemporaryError(
            f"no server can be reached at {self._url} ({error}): "
            "start one with `mizar server`, or a lab with `mizar lab up -f FILE`"
        )


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    if ca is None or certificate is None or key is None:
        raise InvalidError("https:// needs the authority's certificate, your own and its key; see `mizar pki`")
    try:
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidError(f"the certificates {ca}, {certificate} cannot be used: {error}") from error
    return context


def _root_of(error: BaseException) -> BaseException:
    """What the system said, below what the HTTP library made of it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _json_of(reply: httpx.Response) -> object:
    try:
        return reply.json()
    except ValueError:
        return None


def _key(manifest: Manifest) -> Ref:
    metadata = manifest["metadata"]
    return Ref(manifest["kind"], metadata.get("tenant") or "", metadata["name"])


def _reached(key: Ref, manifest: Manifest | None, until: str) -> bool:
    """Whether the object is where it should be; raises when it can no longer get there."""
    if until == "gone":
        return manifest is None
    if manifest is None:
        raise NotFoundError(Problem("there is no such object", resource=str(key)))
    status = manifest["status"]
    if status["phase"] == "Failed" and status["reason"] != "Retrying":
        raise InvalidError(Problem(status["message"] or status["reason"], resource=str(key)))
    return bool(status["phase"] == until)


def _unfinished(key: Ref, manifest: Manifest | None, until: str) -> Problem:
    status = manifest["status"] if manifest else {"phase": "unknown", "message": ""}
    waits_for = f": {status['message']}" if status["message"] else ""
    return Problem(f"is still {status['phase']} and not {until}{waits_for}", resource=str(key))
