# SPDX-License-Identifier: Apache-2.0
"""What the manifest of a load balancer may say, and that nobody writes its parts into an endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mizar.model.resources import Endpoint, LoadBalancer

MEMBERS = [{"endpoint": "web-1"}]


def made(**spec: Any) -> LoadBalancer:
    spec = {"network": "front", "listeners": [{"port": 80}], "members": MEMBERS} | spec
    return LoadBalancer.model_validate({"metadata": {"name": "shop", "tenant": "blue"}, "spec": spec})


def test_what_is_not_said() -> None:
    """TCP, the same port, any flow."""
    spec = made().spec
    assert (spec.listeners[0].protocol, spec.listeners[0].target_port, spec.affinity) == ("tcp", None, "flow")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"listeners": []}, "at least 1"),
        ({"listeners": [{"port": 80}] * 2}, "tcp port 80 already"),
        ({"listeners": [{"port": 0}]}, "greater than or equal to 1"),
        ({"listeners": [{"port": 80, "targetPort": 65536}]}, "less than or equal to 65535"),
        ({"listeners": [{"port": 80, "protocol": "sctp"}]}, "'tcp' or 'udp'"),
        ({"listeners": [{"port": one + 1} for one in range(17)]}, "at most 16"),
        ({"affinity": "cookie"}, "'flow' or 'client'"),
        ({"members": []}, "missing; expected members or a selector"),
        ({"health": {"type": "http", "port": 80, "path": "ready"}}, "a path that begins with a slash"),
    ],
)
def test_what_is_refused(spec: dict[str, Any], message: str) -> None:
    """With a sentence that says what is wrong."""
    with pytest.raises(ValidationError, match=message):
        made(**spec)


def test_one_port_of_each_protocol() -> None:
    """TCP and UDP have ports of their own."""
    assert len(made(listeners=[{"port": 53}, {"port": 53, "protocol": "udp"}]).spec.listeners) == 2


@pytest.mark.parametrize("field", [{"listeners": [{"port": 80}]}, {"affinity": "client"}])
def test_an_endpoint_has_no_listeners_of_its_own(field: dict[str, Any]) -> None:
    """It would be a load balancer that nobody sees as one."""
    spec = {"network": "front", "type": "scaled", "members": MEMBERS} | field
    with pytest.raises(ValidationError, match="write a LoadBalancer instead"):
        Endpoint.model_validate({"metadata": {"name": "shop", "tenant": "blue"}, "spec": spec})
