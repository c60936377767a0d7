# SPDX-License-Identifier: Apache-2.0
"""What the daemon does for who explains a packet's way: it tells what the maps hold.

Called by the servicer. It asks the kernel and not the ledger, so that an entry that somebody altered is seen as it is.
"""

import json
from collections.abc import Callable

from mizar._built import transit_pb2 as pb
from mizar.kernel.interfaces import Interface
from mizar.transit import table_rows
from mizar.transit.ledger import Ledger
from mizar.transit.programs import ICMP_ERRORS, TRAPS, Loaded


class Tracer:
    """For one droplet. `uplink`: its interface as last heard of."""

    def __init__(self, loaded: Loaded, ledger: Ledger, uplink: Callable[[], Interface]) -> None:
        self._loaded = loaded
        self._ledger = ledger
        self._uplink = uplink

    def read(self, request: pb.ReadTablesRequest) -> list[pb.TableRows]:
        """Entries of the maps, and this droplet itself. Raises InvalidError or ExhaustedError."""
        keys = [table_rows.parse_key(one.table, one.key) for one in request.keys]
        found = [pb.TableRows(table="self", rows=[json.dumps(["", self._itself(request.uid)])])]
        for table, rows in table_rows.chunks(table_rows.read(self._loaded.tables, request.vnis, keys)):
            found.append(pb.TableRows(table=table, rows=rows))
        return found

    def _itself(self, uid: str) -> dict[str, object]:
        """`ifindex`: of the endpoint that was asked for, 0 when it has none here."""
        state, uplink, local = self._ledger.state, self._uplink(), self._ledger.state.locals.get(uid)
        return {
            "address": state.own.hex(),
            "address6": state.own6.hex(),
            "mac": uplink.mac.hex(),
            "mtu": uplink.mtu,
            "up": uplink.up,
            "ifindex": local.ifindex if local else 0,
            "icmp_errors": bool(ICMP_ERRORS),
            "traps": bool(TRAPS),
        }
