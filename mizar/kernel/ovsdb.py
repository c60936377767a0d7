# SPDX-License-Identifier: Apache-2.0
"""Ports of Open vSwitch bridges, programmed over OVSDB (RFC 7047; columns: ovs-vswitchd.conf.db(5)).

Owns the conversation with one ovsdb-server and what is written there: each port of ours bears in `external_ids` whose
it is. Called by the daemon's installer, on any of its threads. ovsdbapp is loaded when it is needed first, because a
host without Open vSwitch need not have it. It must never change a port that it did not add.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mizar.model.errors import ConflictError, InvalidError, MizarError, NotFoundError, TemporaryError

INSTANCE, ENDPOINT = "mizar-instance", "mizar-endpoint"
"""Keys of external_ids of a port that is ours: the daemon's name and the endpoint's uid."""

_CALL_S = 5
_OPENED_S = 5.0
_POLL_S = 0.01


@dataclass(frozen=True)
class Port:
    """What a port of a bridge should be."""

    bridge: str
    name: str
    instance: str
    uid: str
    mac: bytes
    """Of the workload behind the bridge."""
    vlan: int
    """Access VLAN, 0 for none."""


class Ovsdb:
    """One database, for example unix:/var/run/openvswitch/db.sock. Connects with the first call."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._api: Any = None

    @property
    def is_here(self) -> bool:
        """Whether there may be somebody to ask: a socket stands where it should."""
        return not self._target.startswith("unix:") or Path(self._target.removeprefix("unix:")).exists()

    def in_user_space(self, bridge: str) -> bool:
        """Whether the bridge forwards in user space, where checksums left to hardware are not understood. Raises
        NotFoundError when there is no such bridge, and what every call here may raise: InvalidError where there is no
        Open vSwitch or no ovsdbapp, TemporaryError when it does not answer."""
        found = self._rows("Bridge", "name", bridge)
        if not found:
            raise NotFoundError(f"Open vSwitch has no bridge {bridge}; add it with `ovs-vsctl add-br {bridge}`")
        return str(found[0].datapath_type) == "netdev"

    def add(self, port: Port) -> None:
        """Adds the port, or brings it to what it should be, and waits until ovs-vswitchd has opened its interface.

        Raises ConflictError when the name is another's. What could not be opened is no port afterwards.
        """
        api = self._connected()
        self._check_free(port)
        ours = {INSTANCE: port.instance, ENDPOINT: port.uid}
        facts = {"iface-id": port.uid, "attached-mac": port.mac.hex(":"), "iface-status": "active"}
        with _mapped(f"add port {port.name} to bridge {port.bridge}"), api.transaction(check_error=True) as steps:
            steps.add(api.add_port(port.bridge, port.name, may_exist=True))
            # Protected ports do not forward to one another: from endpoint to endpoint, the way is the overlay.
            columns: tuple[tuple[str, object], ...] = (
                ("external_ids", ours),
                ("protected", True),
                ("tag", port.vlan or []),
            )
            steps.add(api.db_set("Port", port.name, *columns))
            steps.add(api.db_set("Interface", port.name, ("external_ids", facts)))
        self._wait_until_open(port)

    def remove(self, name: str, instance: str) -> bool:
        """Removes a port of ours; False when it is none (any more)."""
        api = self._connected()
        if name not in self.owned(instance):
            return False
        with _mapped(f"remove port {name}"):
            api.del_port(name, if_exists=True).execute(check_error=True)
        return True

    def owned(self, instance: str) -> dict[str, str]:
        """The ports of a daemon, and on which bridge each is."""
        self._connected()
        return {
            str(port.name): str(bridge.name)
            for bridge in self._rows("Bridge")
            for port in bridge.ports
            if port.external_ids.get(INSTANCE) == instance
        }

    def close(self) -> None:
        """Ends the conversation."""
        with self._lock:
            if self._api is not None:
                self._api.ovsdb_connection.stop(_CALL_S)
                self._api = None

    def _check_free(self, port: Port) -> None:
        holder = {str(found.name): str(bridge.name) for bridge in self._rows("Bridge") for found in bridge.ports}
        for found in self._rows("Port", "name", port.name):
            owner = (found.external_ids.get(INSTANCE), found.external_ids.get(ENDPOINT))
            if owner != (port.instance, port.uid) or holder.get(port.name) != port.bridge:
                raise ConflictError(f"the port name {port.name} is taken in Open vSwitch; choose another")

    def _wait_until_open(self, port: Port) -> None:
        end = time.monotonic() + _OPENED_S
        while True:
            for interface in self._rows("Interface", "name", port.name):
                if interface.error:
                    self.remove(port.name, port.instance)
                    raise MizarError(f"Open vSwitch cannot open port {port.name}: {interface.error[0]}")
                if interface.ofport:
                    return
            if time.monotonic() > end:
                self.remove(port.name, port.instance)
                raise TemporaryError(f"ovs-vswitchd did not open port {port.name} within {_OPENED_S:.0f} s; is it up?")
            time.sleep(_POLL_S)

    def _rows(self, table: str, column: str = "", value: str = "") -> list[Any]:
        rows = self._connected().tables[table].rows.values()
        return [row for row in list(rows) if not column or getattr(row, column) == value]

    def _connected(self) -> Any:
        with self._lock:
            if self._api is None:
                self._api = _connect(self._target, self.is_here)
            return self._api


def _connect(target: str, is_here: bool) -> Any:
    try:
        from ovsdbapp.backend.ovs_idl import connection
        from ovsdbapp.schema.open_vswitch import impl_idl
    except ImportError as error:
        raise InvalidError("ovsdbapp, which speaks to Open vSwitch, is not installed: install mizar[ovs]") from error
    if not is_here:
        raise InvalidError(f"there is no Open vSwitch here: {target} does not exist; start it, or give --ovsdb")
    with _mapped(f"connect to Open vSwitch at {target}"):
        idl = connection.OvsdbIdl.from_server(target, "Open_vSwitch")
        return impl_idl.OvsdbIdl(connection.Connection(idl=idl, timeout=_CALL_S))


@contextlib.contextmanager
def _mapped(what: str) -> Iterator[None]:
    """Maps whatever ovsdbapp and ovs raise: their errors have no root of their own."""
    try:
        yield
    except MizarError:
        raise
    except Exception as error:
        raise TemporaryError(f"{what}: {error or type(error).__name__}") from error
