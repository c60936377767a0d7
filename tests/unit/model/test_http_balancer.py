# SPDX-License-Identifier: Apache-2.0
"""Manifests of HTTP load balancers: what is refused, and at which line and field."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from mizar.model.certificates import covers
from mizar.model.errors import InvalidError
from mizar.model.manifest import parse_manifests
from mizar.model.resources import dump
from mizar.model.secret import MASK
from tests.lab.balancer import certificate

SHOP, OTHER = certificate("shop.example.com", "*.shop.example.com"), certificate("other.example.com")
OTHERS = {"name": "other", "chain": OTHER[0], "key": OTHER[1]}


def spec() -> dict[str, Any]:
    return {
        "network": "front",
        "listeners": [{"port": 443, "tls": True}],
        "certificates": [{"name": "shop", "chain": SHOP[0], "key": SHOP[1]}],
        "routes": [{"hosts": ["shop.example.com", "a.shop.example.com"], "backend": "web"}],
        "backends": [{"name": "web", "port": 80, "endpoints": ["web-1"]}],
    }


def refused(changed: dict[str, Any]) -> list[tuple[str, str, int]]:
    document = {
        "apiVersion": "mizar/v1",
        "kind": "HttpLoadBalancer",
        "metadata": {"name": "shop", "tenant": "blue"},
        "spec": changed,
    }
    text = yaml.safe_dump(document)
    try:
        found = parse_manifests(text, "file.yaml")
    except InvalidError as error:
        return [(one.field, one.message, one.line) for one in error.problems]
    assert "PRIVATE" not in str(dump(found[0]))
    return []


def test_a_right_one_is_taken_and_its_key_is_hidden() -> None:
    """With a certificate that stands for all names below a domain."""
    assert refused(spec()) == []


@pytest.mark.parametrize(
    ("path", "value", "field", "message"),
    [
        (("certificates", 0, "key"), OTHER[1], "spec.certificates[0].key", "not the key of this certificate"),
        (("certificates", 0, "key"), "no PEM", "spec.certificates[0].key", "expected a private key"),
        (("certificates", 0, "chain"), "no PEM", "spec.certificates[0].chain", "expected certificates in PEM"),
        (("certificates", 0, "chain"), SHOP[0] + SHOP[1], "spec.certificates[0].chain", "holds a private key"),
        (("certificates", 0), OTHERS, "spec.certificates[0].chain", "made out"),
        (("routes", 0, "hosts"), ["shop.example.com", "b.a.shop.example.com"], "spec.routes[0].hosts[1]", "no certif"),
        (("routes", 0, "hosts"), ["Shop.example.com"], "spec.routes[0].hosts[0]", "expected a host name"),
        (("routes", 0, "path"), "/a'b", "spec.routes[0].path", "expected a path"),
        (("routes", 0, "path"), "/a\nb", "spec.routes[0].path", "expected a path"),
        (("routes", 0, "backend"), "none", "spec.routes[0].backend", "expected one of web"),
        (("certificates",), [], "spec.listeners[0].tls", "there are no certificates"),
        (("backends", 0, "endpoints"), [], "spec.backends[0].endpoints", "expected endpoints or a selector"),
        (("backends",), [{"name": "web", "port": 1, "endpoints": ["a"]}] * 2, "spec.backends", "two have the name web"),
        (("listeners",), [{"port": 1}, {"port": 1}], "spec.listeners", "two have the port 1"),
        (("listeners",), [{"port": 0}], "spec.listeners[0].port", "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_wrong_one_is_refused_at_its_field(path: tuple[Any, ...], value: Any, field: str, message: str) -> None:
    """And no message shows a key."""
    changed = spec()
    place: Any = changed
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    found = refused(changed)
    assert [where for where, _, _ in found] == [field], found
    assert message in found[0][1]
    assert found[0][2] > 0
    assert "PRIVATE" not in found[0][1]
    assert len(found[0][1]) < 300


def test_many_names_cost_little_and_much_pem_is_refused() -> None:
    """What one tenant applies is checked on the loop that serves all."""
    assert covers(frozenset({"a.example.com", "*.b.example.com"}), "x.b.example.com")
    assert not covers(frozenset({"*.b.example.com"}), "y.x.b.example.com")
    assert not covers(frozenset({"*."}), "example")
    changed = spec()
    changed["certificates"] = [{"name": f"c{n}", "chain": SHOP[0] + "\n" * 64000, "key": MASK} for n in range(34)]
    ((field, message, _),) = refused(changed)
    assert (field, "in all" in message) == ("spec.certificates", True)
