# SPDX-License-Identifier: Apache-2.0
"""Reads a gateway's metrics as Prometheus does."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.rig import LIMIT_S


class Samples:
    """What was told, by name and some labels."""

    def __init__(self, text: str) -> None:
        self._all = [one for family in text_string_to_metric_families(text) for one in family.samples]

    def get(self, name: str, labels: Mapping[str, str]) -> float | None:
        """The value of the one series that has these labels, None when there is none."""
        found = [one.value for one in self._all if one.name == name and labels.items() <= one.labels.items()]
        assert len(found) < 2, (name, labels, found)
        return found[0] if found else None

    def __getitem__(self, asked: tuple[str, Mapping[str, str]]) -> float:
        found = self.get(*asked)
        assert found is not None, (asked, sorted(one for one in self._all if one.name == asked[0]))
        return found


class _Unix(HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(self.host)


def scrape(place: Path) -> Samples:
    """All that is told over a unix socket."""
    connection = _Unix(str(place))
    try:
        connection.request("GET", "/metrics", headers={"Host": "localhost"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.reason
        return Samples(answer.read().decode())
    finally:
        connection.close()
