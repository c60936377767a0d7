# SPDX-License-Identifier: Apache-2.0
"""Functions: an endpoint in a namespace that the daemon has prepared, taken from a pool, and given back to nobody."""

import signal

import pytest
from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from mizar.kernel import namespaces
from mizar.kernel.bpffs import instances
from tests.transit.rig import FRONT, Droplet, Rig, endpoint, put_droplet, put_network, put_vpc, until
from tests.transit.test_life import alone
from tests.transit.traffic import ping


def function(made: Rig, host: Droplet, number: int, interface: str = "eth0") -> pb.LocalEndpoint:
    """Endpoint `number` of "front" in a namespace from the pool."""
    workload = pb.Workload(pool=f"{made.prefix}-f{number}", interface=interface)
    return pb.LocalEndpoint(uid=f"f-{number}", endpoint=endpoint(number, FRONT, host), workload=workload)


def pooled(host: Droplet) -> list[str]:
    """Interfaces of the droplet that wait in the pool."""
    with IPRoute(netns=host.namespace) as ip:
        names = [str(link.get_attr("IFLA_IFNAME")) for link in ip.get_links()]
    return [name for name in names if name.startswith("pool")]


def named(made: Rig) -> list[str]:
    """Names that functions have."""
    return [name for name in namespaces.names() if name.startswith(f"{made.prefix}-f")]


def test_a_function_gets_its_namespace_from_the_pool(made: Rig) -> None:
    """It is there under its name, with the interface that was asked for, and talks; the pool is filled again. Detached,
    it has no name any more."""
    one, (first,) = alone(made, "uid-1")
    until(lambda: len(pooled(one)) == 8, "the pool is full")
    waiting = set(pooled(one))
    wanted = [function(made, one, 3), function(made, one, 4, "net0")]
    one.attach_whole(*wanted)
    assert named(made) == [one.workload.pool for one in wanted]
    assert ping(first, "10.0.1.13") is not None
    assert ping(wanted[1].workload.pool, "fd00:10:0:1::13") is not None
    until(lambda: len(pooled(one)) == 8 and len(waiting & set(pooled(one))) == 6, "two were taken, two are new")
    held = {found.local.uid: found for found in one.state().local_endpoints}
    assert [held[f"f-{number}"].local for number in (3, 4)] == wanted
    assert held["f-3"].problem == ""
    one.attach_whole(*wanted)
    assert ping(first, "10.0.1.14") is not None
    one.detach("f-3", "f-4")
    until(lambda: named(made) == [] and len(one.links()) == 1, "namespaces and interfaces are gone")
    one.attach_whole(*wanted)
    assert ping(first, "10.0.1.13") is not None
    one.detach("f-3", "f-4")
    until(lambda: named(made) == [], "and again")


def test_more_functions_than_the_pool_has(made: Rig) -> None:
    """An empty pool is no failure: what lacks is made. A pool of nothing is possible."""
    one = made.add_droplet()
    one.start("--pool", "2")
    one.apply(put_droplet(one), put_vpc(one), put_network(FRONT, one))
    wanted = [function(made, one, number) for number in range(1, 7)]
    one.attach_whole(*wanted)
    for other in range(2, 7):
        assert ping(wanted[0].workload.pool, f"10.0.1.1{other}", 5.0) is not None
    until(lambda: len(pooled(one)) == 2 and len(one.pins()) == 6, "the pool is full, and all agents are settled")
    one.stop()
    one.start("--pool", "0")
    until(lambda: pooled(one) == [], "what waited went with its daemon")
    assert ping(wanted[0].workload.pool, "10.0.1.16") is not None
    one.detach(*(each.uid for each in wanted))
    until(lambda: named(made) == [] and one.links() == [], "nothing is left")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_pool_ends_with_its_daemon(made: Rig, number: signal.Signals) -> None:
    """However it ends, what nobody took is gone; functions that run keep running."""
    one, (first,) = alone(made, "uid-1")
    one.attach_whole(function(made, one, 3))
    until(lambda: len(pooled(one)) == 8, "the pool is full")
    one.stop(number)
    until(lambda: pooled(one) == [], "the kernel has ended the pool")
    assert ping(first, "10.0.1.13") is not None
    one.start()
    assert ping(first, "10.0.1.13") is not None
    assert {found.local.uid: found.problem for found in one.state().local_endpoints} == {"uid-1": "", "f-3": ""}
    one.detach("f-3")
    until(lambda: named(made) == [], "the new daemon knows that the namespace was its own")


def test_a_function_that_was_half_made_leaves_no_name(made: Rig) -> None:
    """The daemon dies between naming the namespace and committing to the endpoint: the next one removes both."""
    one, _ = alone(made, "uid-1")
    one.attach_whole(function(made, one, 3))
    one.stop(signal.SIGKILL)
    entries = instances()
    assert one.name in entries
    from mizar.kernel import libbpf
    from mizar.kernel.bpffs import Pins
    from mizar.kernel.layout import U32, struct_codec
    from mizar.kernel.maps import Table

    with IPRoute(netns=one.namespace) as ip:
        aliases = {link.get_attr("IFLA_IFALIAS"): link["index"] for link in ip.get_links()}
    (index,) = (at for alias, at in aliases.items() if alias and " f-3 " in alias)
    fd = libbpf.open_pin(Pins.of(one.name).maps / "agents")
    assert fd is not None
    Table("agents", fd, U32, struct_codec("agent")).delete(index)
    one.start()
    assert named(made) == []
    assert [found.local.uid for found in one.state().local_endpoints] == ["uid-1"]
    until(lambda: len(one.links()) == 1, "the interface is gone")


def test_a_function_whose_namespace_fails_is_refused_whole(made: Rig) -> None:
    """Another's address: no name, no interface, and the endpoint that has it goes on."""
    one, (first,) = alone(made, "uid-1")
    wrong = function(made, one, 3)
    wrong.endpoint.addresses[:] = endpoint(1, FRONT, one).addresses
    (result,) = one.attach(wrong)
    assert "10.0.1.11" in result.error
    assert named(made) == []
    assert len(one.links()) == 1
    assert ping(first, "10.0.1.1") is not None


def test_cleanup_takes_functions_along(made: Rig) -> None:
    """`mizar daemon --cleanup` removes the names that a daemon gave."""
    one, _ = alone(made, "uid-1")
    one.attach_whole(function(made, one, 3))
    one.stop()
    assert one.cleanup().wait() == 0
    assert named(made) == []
    assert pooled(one) == one.links() == []
