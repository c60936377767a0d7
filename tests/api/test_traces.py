# SPDX-License-Identifier: Apache-2.0
"""POST /v1/traces: what is wrong with a question, and who may ask about whom."""

from __future__ import annotations

from typing import Any

import pytest

from mizar.api.client import Client
from mizar.model.errors import InvalidError, MizarError, NotFoundError, TemporaryError
from mizar.model.resources import Ref
from tests.api.conftest import Site, aside

A = {"tenant": "red", "name": "a"}


def objects(site: Site) -> list[dict[str, Any]]:
    """Two tenants with an endpoint each; red's is on d1."""
    found = site.droplets()
    for tenant in ("red", "blue"):
        found += [
            _object("Tenant", tenant),
            _object("VPC", "main", tenant, cidrs=["10.0.0.0/16"]),
            _object("Network", "net", tenant, vpc="main", cidrs=["10.0.1.0/24"]),
            _object("Endpoint", "a", tenant, network="net", droplet="d1", workload={"namespace": f"{tenant}.a"}),
        ]
    return found


def _object(kind: str, name: str, tenant: str = "", **spec: object) -> dict[str, Any]:
    metadata = {"name": name, **({"tenant": tenant} if tenant else {})}
    return {"apiVersion": "mizar/v1", "kind": kind, "metadata": metadata, "spec": spec}


def refused(client: Client, **question: object) -> MizarError:
    """The error of a question."""
    with pytest.raises(MizarError) as caught:
        client.trace({"source": A, **question})
    return caught.value


@pytest.mark.asyncio
async def test_a_question_is_answered_or_refused_in_a_sentence(site: Site) -> None:
    """Nobody, noise, the wrong family, another tenant's: each in its own words, and a stranger's as if it were not."""

    def work() -> None:
        with site.client() as admin, site.certified("tenant-red") as red:
            admin.apply(objects(site))
            admin.wait([Ref("Endpoint", tenant, "a") for tenant in ("red", "blue")], 20.0)
            for client in (admin, red):
                assert isinstance(refused(client, destination={"tenant": "red", "name": "nobody"}), NotFoundError)
                assert isinstance(refused(client, destination="10.0.1.999"), InvalidError)
                assert isinstance(refused(client), InvalidError)
                assert isinstance(refused(client, frame="zz"), InvalidError)
                assert isinstance(refused(client, destination="10.0.1.2", size=3), InvalidError)
                assert isinstance(refused(client, destination="fd00::1"), InvalidError)
            stranger = refused(red, destination={"tenant": "blue", "name": "a"})
            nobody = refused(red, destination={"tenant": "blue", "name": "never-was"})
            assert str(stranger) == str(nobody).replace("never-was", "a")
            assert type(stranger) is type(nobody) is NotFoundError
            from_stranger = refused(red, source={"tenant": "blue", "name": "a"}, destination="10.0.1.2")
            assert isinstance(from_stranger, NotFoundError)

    await aside(work)


@pytest.mark.asyncio
async def test_who_asks_from_outside_asks_about_a_public_address_of_its_own(site: Site) -> None:
    """A stranger's public address is nobody's; what cannot be asked from outside is refused in a sentence."""
    public = "203.0.113.10"
    pool = _object("AddressPool", "edge", prefixes=["203.0.113.0/28"], tenants=["blue"], droplets=["d1"])
    shop = _object(
        "LoadBalancer", "shop", "blue", network="net", listeners=[{"port": 80}], members=[{"endpoint": "a"}],
        public={"pool": "edge", "addresses": [public]},
    )  # fmt: skip

    def work() -> None:
        with site.client() as admin, site.certified("tenant-red") as red, site.certified("tenant-blue") as blue:
            admin.apply([*objects(site), pool, shop])
            admin.wait([Ref("Endpoint", "blue", "a"), Ref("LoadBalancer", "blue", "shop")], 20.0)
            stranger, nobody = (refused(red, source="192.0.2.1", destination=f"203.0.113.1{end}") for end in (0, 1))
            assert str(stranger) == str(nobody).replace("203.0.113.11", public)
            assert type(stranger) is type(nobody) is NotFoundError
            for client in (admin, blue):
                asked = {"source": "192.0.2.1", "destination": public}
                for more in ({"droplet": "d9"}, {"frame": "00" * 60}, {"source": "fd00::1"}):
                    assert isinstance(refused(client, **(asked | more)), InvalidError), more
                assert isinstance(refused(client, source="192.0.2.1", destination=A), InvalidError)
            sent = refused(blue, source="192.0.2.1", destination=public, live=True)
            assert isinstance(sent, InvalidError)
            assert "only an operator" in str(sent)
            for client in (admin, blue):
                assert isinstance(refused(client, source="nobody", destination=public), InvalidError)
                assert isinstance(refused(client, destination="10.0.1.2", droplet="d1"), InvalidError)

    await aside(work)


@pytest.mark.asyncio
async def test_a_droplet_that_is_silent_is_named(site: Site) -> None:
    """The source's own droplet is gone: a sentence that says which."""

    def begin() -> None:
        with site.client() as admin:
            admin.apply(objects(site))
            admin.wait([Ref("Endpoint", "red", "a")], 20.0)

    await aside(begin)
    await site.daemons[0].stop()

    def work() -> None:
        with site.client() as admin:
            error = refused(admin, destination="10.0.1.2")
            assert isinstance(error, TemporaryError)
            assert "d1" in str(error)

    await aside(work)
