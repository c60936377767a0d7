# SPDX-License-Identifier: Apache-2.0
"""What one tenant's HTTP load balancers may take of droplets that others use too, and what their status warns of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mizar.manager.engines import certificate_told
from mizar.model import certificates
from mizar.model.errors import ExhaustedError, InvalidError
from mizar.model.http_balancer import CertificateSpec
from mizar.model.secret import MASK, SecretText
from tests.lab.balancer import certificate
from tests.unit.manager.world import World, endpoint, manifest


def balancer(name: str, owner: str = "red", **spec: Any) -> dict[str, Any]:
    found = {
        "network": "front",
        "instances": 1,
        "listeners": [{"port": 80}],
        "routes": [{"backend": "web"}],
        "backends": [{"name": "web", "port": 80, "endpoints": ["e"]}],
    }
    return manifest("HttpLoadBalancer", name, owner, **{**found, **spec})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"instances": 4, "threads": 64}, "would have 258; expected at most 256 threads"),
        ({"instances": 4, "connections": 100_000}, "expected at most 400000 connections"),
    ],
)
async def test_one_tenant_cannot_take_a_droplet(world: World, spec: dict[str, Any], message: str) -> None:
    """All of its load balancers count, new and changed; those of others do not."""
    world.apply(*world.base("red", "blue"), endpoint("red", "e", "d1"), endpoint("blue", "e", "d2"), balancer("a"))
    with pytest.raises(ExhaustedError, match=message):
        world.apply(balancer("b", **spec))
    assert not world.exists("HttpLoadBalancer", "b", "red")
    world.apply(balancer("b"))
    with pytest.raises(ExhaustedError, match=message.rpartition("expected")[2]):
        world.apply(balancer("b", **spec))
    world.apply(balancer("b", "blue", **spec))


@pytest.mark.parametrize("port", [80, 8080])
async def test_a_redirect_leads_to_no_listener_without_tls(world: World, port: int) -> None:
    """To itself, or to another: clients would be sent in a circle, or speak TLS with who does not. A port that it does
    not have may be one that leads to it from elsewhere."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"))
    with pytest.raises(InvalidError, match=f"redirect: .* port {port} is one without tls"):
        world.apply(balancer("a", listeners=[{"port": 80, "redirect": port}, {"port": 8080}]))
    world.apply(balancer("a", listeners=[{"port": 80, "redirect": 443}]))


async def test_a_weight_is_of_a_server(world: World) -> None:
    """Or a server that was to get no more requests, and whose name was mistyped, would go on getting them. With labels,
    it may come later."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"))
    backend = {"name": "web", "port": 80, "endpoints": ["e"], "weights": {"e": 2, "ee": 0}}
    with pytest.raises(InvalidError, match=r"backends\[0\].weights.ee: ee is none of the endpoints of backend web"):
        world.apply(balancer("a", backends=[backend]))
    world.apply(balancer("a", backends=[{**backend, "selector": {"app": "web"}}]))


async def test_a_name_leaves_room_for_the_numbers_of_instances(world: World) -> None:
    """Or a later instance would have none, when its droplet has died."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"))
    with pytest.raises(InvalidError, match="at most 50 characters"):
        world.apply(balancer("a" * 60))
    world.apply(balancer("a" * 50))


def test_a_certificate_that_ends_is_warned_of() -> None:
    chain, _ = certificate("shop.example.com")
    end = certificates.expires(chain)
    assert end is not None
    shown = certificate_told(CertificateSpec(name="shop", chain=chain, key=SecretText(MASK)))
    assert ("warning" in shown) == (end - datetime.now(UTC) < timedelta(days=14))
    assert shown["expires"].endswith("Z")
    assert "key" not in shown


@pytest.mark.parametrize(("days", "warning"), [(-2, "it has expired"), (3, "it expires in 2 days"), (40, None)])
def test_how_soon_a_certificate_ends_is_said(days: int, warning: str | None) -> None:
    """Clients refuse one that has ended, and nothing else tells."""
    chain, _ = certificate("shop.example.com", days=days)
    shown = certificate_told(CertificateSpec(name="shop", chain=chain, key=SecretText(MASK)))
    assert shown.get("warning") == warning


@pytest.mark.parametrize(("days", "told"), [(-1, ("certificate c: it has expired",)), (90, ())])
async def test_a_certificate_that_has_ended_is_told_when_it_is_applied(
    world: World, days: int, told: tuple[str, ...]
) -> None:
    """Not only in a status that nobody looks at: clients refuse it from the first request on."""
    chain, key = certificate("shop.example.com", days=days)
    world.apply(*world.base("red"), endpoint("red", "e", "d1"))
    spec: dict[str, Any] = {
        "listeners": [{"port": 443, "tls": True}],
        "routes": [{"hosts": ["shop.example.com"], "backend": "web"}],
    }
    (result,) = world.apply(balancer("a", certificates=[{"name": "c", "chain": chain, "key": key}], **spec))
    assert result.warnings == told
