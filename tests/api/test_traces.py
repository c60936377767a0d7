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
