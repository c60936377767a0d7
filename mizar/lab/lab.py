# SPDX-License-Identifier: Apache-2.0
"""A lab: brought up, looked at, entered, taken down.

Called by mizar.cli.lab, mizar.lab.demo and tests. `up` may be called at any time, also on a lab that was interrupted
or half killed: what is there stays, what is missing is made, what changed is applied. `down` needs nothing but the
name. Both hold the lab's lock, which the kernel gives back when they are killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from mizar.api.client import Client
from mizar.kernel import features, namespaces
from mizar.kernel.bpffs import Pins, instances
from mizar.kernel.namespaces import Namespace, enter
from mizar.lab import processes, substrate
from mizar.lab.names import LabName
from mizar.lab.plan import LabPlan, plan
from mizar.lab.progress import Progress, silent
from mizar.model.errors import ConflictError, InvalidError, MizarError, NotFoundError, TemporaryError
from mizar.model.manifest import parse_resource
from mizar.model.resources import Ref, Resource, Scope, dump, kind_named
from mizar.transit.engines.nat_left import forget_all
from mizar.transit.options import LOG_FOLDER, RUN_FOLDER
from mizar.transit.pool import retire_all
from mizar.transit.told import remove_all
from mizar.transit.vpns import remove_all as remove_tunnels

START_LIMIT_S = 30.0
PROVISION_LIMIT_S = 60.0
_POLL_S = 0.02
_SERVER = "server"


def up(resources: Sequence[Resource], progress: Progress = silent) -> LabPlan:
    """Makes the lab what the manifests say and waits until all of it is provisioned.

    Raises InvalidError for manifests that describe no lab, ConflictError while somebody else changes this lab or when
    it is up with other droplets, TemporaryError when a process does not come up, MizarError when this machine lacks
    something that is needed.
    """
    wanted = plan(resources)
    _require_features()
    lab = wanted.lab
    with _locked(lab):
        lab.folder.mkdir(parents=True, exist_ok=True)
        _refuse_other_hosts(wanted)
        written = lab.manifest.with_suffix(".new")
        written.write_text(json.dumps([dump(resource) for resource in resources]))
        written.replace(lab.manifest)
        with progress(f"substrate, {len(wanted.hosts)} droplets, {len(wanted.endpoint_namespaces)} endpoints"):
            substrate.ensure(wanted)
        with progress("server and daemons"):
            started = _start_missing(wanted)
            with _answering(lab) as client:
                client.apply([item for item in wanted.objects if item.ref in _droplets(wanted)])
                _await(client, _droplets(wanted), lab, started)
        with progress(f"{len(wanted.objects)} objects"), Client(lab.server_url) as client:
            client.apply(wanted.objects)
            client.wait([item.ref for item in wanted.objects], PROVISION_LIMIT_S)
    return wanted


def down(lab: LabName) -> bool:
    """Removes everything that carries the lab's name; False when there was nothing. Raises ConflictError when busy."""
    _require_root()
    with _locked(lab, gone=True):
        found = processes.stop(lab.name) > 0
        found |= _retire_brought(lab) > 0
        found |= substrate.remove(lab.namespace_prefix) > 0
        for instance in instances():
            if instance.startswith(lab.instance_prefix):
                Pins.of(instance).remove()
                found = True
        for engines in RUN_FOLDER.glob(f"{lab.instance_prefix}*.engines"):
            forget_all(engines)
            found |= remove_all(engines) > 0
        for logs in LOG_FOLDER.glob(f"{lab.instance_prefix}*"):
            shutil.rmtree(logs)
        for tunnels in RUN_FOLDER.glob(f"{lab.instance_prefix}*.vpn"):
            remove_tunnels(tunnels)
        for left in RUN_FOLDER.glob(f"{lab.instance_prefix}*"):  # the daemons' locks
            left.unlink()
        if lab.folder.is_dir():
            shutil.rmtree(lab.folder)
            found = True
    for folder in (lab.folder.parent, RUN_FOLDER, LOG_FOLDER):
        with contextlib.suppress(OSError):  # what is not ours keeps it
            folder.rmdir()
    return found


def is_up(lab: LabName) -> bool:
    """Whether the lab's server runs."""
    return any(process.name == _SERVER for process in processes.marked(lab.name))


def stored_plan(lab: LabName) -> LabPlan:
    """What the lab was last brought up as. Raises NotFoundError when there is no such lab."""
    try:
        documents = json.loads(lab.manifest.read_text())
    except (OSError, ValueError) as error:
        raise NotFoundError(f"there is no lab {lab.name!r}: bring one up with `mizar lab up -f FILE`") from error
    return plan([parse_resource(document) for document in documents])


def status(lab: LabName) -> dict[str, Any]:
    """What there is of the lab: {"lab", "processes", "droplets", "endpoints", "problems"}. Raises NotFoundError."""
    _require_root()
    wanted = stored_plan(lab)
    alive = {process.name: process.pid for process in processes.marked(lab.name)}
    names = [_SERVER, *(host.name for host in wanted.hosts)]
    problems = [f"{name} does not run: see {lab.log(name)}" for name in names if name not in alive]
    droplets: list[dict[str, Any]] = []
    endpoints: list[dict[str, Any]] = []
    try:
        with Client(lab.server_url, timeout_s=5.0) as client:
            droplets, endpoints = client.list("Droplet"), client.list("Endpoint")
    except MizarError as error:
        problems.append(str(error))
    for item in (*droplets, *endpoints):
        if item["status"]["phase"] != "Provisioned":
            said = item["status"].get("message") or item["status"].get("reason") or item["status"]["phase"]
            problems.append(f"{item['kind']} {_name_of(item)}: {said}")
    problems += [f"{_name_of(item)} is not connected" for item in droplets if item["status"].get("connected") is False]
    return {
        "lab": lab.name,
        "server": lab.server_url,
        "processes": [
            {"name": name, "pid": alive.get(name), "log": str(lab.log(name)), "metrics": lab.metrics_url(name)}
            for name in names
        ],
        "droplets": droplets,
        "endpoints": endpoints,
        "problems": problems,
    }


def endpoint_namespace(lab: LabName, endpoint: str) -> str:
    """The namespace of an endpoint, given as tenant/name or as a name that only one tenant has.

    Works without the server too, for what the lab was brought up with. Raises NotFoundError, or InvalidError when
    several tenants have the name.
    """
    found = {_name_of(item): item for item in map(dump, stored_plan(lab).objects) if item["kind"] == "Endpoint"}
    with contextlib.suppress(TemporaryError), Client(lab.server_url, timeout_s=5.0) as client:
        found = {_name_of(item): item for item in client.list("Endpoint")}
    wanted = [name for name in found if endpoint in (name, name.partition("/")[2])]
    if not wanted:
        raise NotFoundError(f"lab {lab.name} has no endpoint {endpoint!r}; it has {', '.join(sorted(found)) or 'none'}")
    if len(wanted) > 1:
        raise InvalidError(f"several tenants have an endpoint {endpoint!r}: say which of {', '.join(sorted(wanted))}")
    workload = found[wanted[0]]["spec"].get("workload") or {}
    if not workload.get("namespace"):
        raise InvalidError(f"endpoint {wanted[0]} lives in no namespace with a name")
    return str(workload["namespace"])


def execute(lab: LabName, endpoint: str, command: Sequence[str]) -> NoReturn:
    """Becomes a command inside of an endpoint's network namespace: terminal, signals and exit code are its own.

    Raises OSError when the command cannot be run, else what endpoint_namespace() raises.
    """
    _require_root()
    with Namespace.by_name(endpoint_namespace(lab, endpoint)) as namespace:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so across exec
        enter(namespace.fd)  # this thread's only; it is the one that survives exec
        os.execvpe(command[0], list(command), processes.environment(lab.name, "exec"))  # noqa: S606


def _retire_brought(lab: LabName) -> int:
    """Takes away the namespaces that daemons brought for functions: their names tell of no lab, their links do."""
    brought = 0
    for name in namespaces.names():
        if name.startswith(lab.droplet_namespace("")):
            with contextlib.suppress(MizarError), Namespace.by_name(name) as host:  # half made: nothing begins in it
                brought += retire_all(host)
    return brought


def _require_root() -> None:
    """Raises MizarError for others: they cannot see the lab's processes, and would take them for dead."""
    if os.geteuid() != 0:
        raise MizarError("a lab belongs to root: run this as root, or with sudo")


def _require_features() -> None:
    """Raises MizarError that names the first thing that this machine or user lacks."""
    for feature in features.probe():
        if feature.needed and not feature.present:
            raise MizarError(f"{feature.name}: {feature.detail}; {feature.how_to_fix}; `mizar doctor` tells all")


def _refuse_other_hosts(wanted: LabPlan) -> None:
    """Droplets may be added to a lab that is up, not moved or taken away."""
    try:
        present = stored_plan(wanted.lab)
    except NotFoundError:
        return
    if present.substrate != wanted.substrate or not set(present.hosts) <= set(wanted.hosts):
        raise ConflictError(
            f"lab {wanted.lab.name} is up with other droplets: `mizar lab down {wanted.lab.name}` first"
        )


def _start_missing(wanted: LabPlan) -> list[str]:
    """Starts the processes that do not run; returns their names."""
    lab = wanted.lab
    mizar = [sys.executable, "-m", "mizar.cli.main"]
    alive = {process.name for process in processes.marked(lab.name)}
    started = []
    if _SERVER not in alive:
        lab.server_socket.unlink(missing_ok=True)
        argv = [*mizar, "server", "--db", str(lab.database), "--listen", lab.server_url]
        argv += ["--metrics", lab.metrics_url(_SERVER)]
        processes.start(lab.name, _SERVER, argv, lab.log(_SERVER))
        started.append(_SERVER)
    for host in wanted.hosts:
        if host.name not in alive:
            argv = [*mizar, "daemon", "--interface", substrate.INTERFACE, "--name", lab.instance(host.name)]
            argv += [option for one in host.addresses for option in ("--address", str(one.ip))]
            argv += ["--listen", lab.droplet_url(host.name), "--metrics", lab.metrics_url(host.name)]
            argv += wanted.daemon_arguments
            with Namespace.by_name(host.namespace) as namespace:
                processes.start(lab.name, host.name, argv, lab.log(host.name), namespace)
            started.append(host.name)
    return started


@contextlib.contextmanager
def _answering(lab: LabName) -> Iterator[Client]:
    """A client of the lab's server, as soon as it answers."""
    end = time.monotonic() + START_LIMIT_S
    with Client(lab.server_url) as client:
        while True:
            try:
                client.health()
                break
            except TemporaryError as error:
                _refuse_dead(lab, [_SERVER])
                if time.monotonic() > end:
                    raise TemporaryError(
                        f"the lab's server does not answer: {error}; see {lab.log(_SERVER)}"
                    ) from error
                time.sleep(_POLL_S)
        yield client


def _await(client: Client, refs: Sequence[Ref], lab: LabName, started: Sequence[str]) -> None:
    """Waits for the droplets, and gives up early when a process that was started has died."""
    end = time.monotonic() + START_LIMIT_S
    while True:
        try:
            client.wait(refs, 2.0)
            return
        except TemporaryError:
            _refuse_dead(lab, started)
            if time.monotonic() > end:
                raise


def _refuse_dead(lab: LabName, names: Sequence[str]) -> None:
    alive = {process.name for process in processes.marked(lab.name)}
    for name in names:
        if name not in alive:
            said = lab.log(name).read_text(errors="replace").strip().splitlines() if lab.log(name).exists() else []
            last = f": {said[-1]}" if said else ""
            raise TemporaryError(f"{name} of lab {lab.name} ended as soon as it was started{last}; see {lab.log(name)}")


def _droplets(wanted: LabPlan) -> list[Ref]:
    return [Ref("Droplet", "", host.name) for host in wanted.hosts]


def _name_of(item: dict[str, Any]) -> str:
    metadata = item["metadata"]
    tenanted = kind_named(item["kind"]).scope is Scope.TENANT
    return f"{metadata['tenant']}/{metadata['name']}" if tenanted else str(metadata["name"])


@contextlib.contextmanager
def _locked(lab: LabName, gone: bool = False) -> Iterator[None]:
    """Holds the lab's lock; with `gone` its file is removed at the end. The kernel frees it if we are killed."""
    while True:
        lab.lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(lab.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the last lab went down in between, and took the folder with it
            continue
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConflictError(f"lab {lab.name} is being brought up or down by somebody else") from error
            if not lab.lock.exists() or os.fstat(fd).st_ino != lab.lock.stat().st_ino:
                continue  # whoever held it before removed the file
            if gone:
                stack.callback(lab.lock.unlink, missing_ok=True)
            yield
            return
