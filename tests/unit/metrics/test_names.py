# SPDX-License-Identifier: Apache-2.0
"""Names and units follow Prometheus' conventions, and the dashboard and the docs ask for what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import Metric

from mizar._built import transit_pb2 as pb
from mizar.gateway.metrics import GatewayMetrics
from mizar.gateway.process import Gateway
from mizar.manager.metrics import ManagerMetrics
from mizar.manager.registry import Registry
from mizar.transit.engines import http_stats
from mizar.transit.engines.engine import Sample
from mizar.transit.events import Hub
from mizar.transit.ledger import Ledger
from mizar.transit.metrics import DaemonMetrics
from mizar.transit.servicer import Identity
from mizar.transit.state import Limits
from mizar.transit.values import Droplet, PutDroplet, PutVpc, Vpc
from tests.unit.metrics import fakes
from tests.unit.transit.fakes import FakeMaps

ROOT = Path(__file__).parents[3]
OWN, OTHER = bytes((172, 30, 9, 1)), bytes((172, 30, 9, 2))
NAME = re.compile(r"\b(?:mizar|process)_[a-z_]+")
OF_HISTOGRAMS = ("_bucket", "_count", "_sum")


class Maps(FakeMaps):
    """With counters to be read."""

    def __getattr__(self, name: str) -> Any:
        return Counting() if name.endswith("_counters") else super().__getattr__(name)


class Counting:
    """Has counted one packet, for one reason."""

    def get(self, _slot: int) -> dict[str, int]:
        return {"sent_packets": 1}

    def items(self) -> list[tuple[int, dict[str, int]]]:
        return [(62, {"packets": 1, "bytes": 60})]

    def zero(self, _slots: Any) -> None:
        pass


def _of_functions() -> list[tuple[pb.Engine, Sample]]:
    engine = pb.Engine(digest=b"1", http=pb.HttpBalancer(tenant="blue", name="shop", instance="shop-1"))
    rows: list[http_stats.Row] = [
        {"pxname": "port-80", "svname": "FRONTEND"},
        {"pxname": "to-web", "svname": "BACKEND"},
    ]
    counted = [
        Sample("http_balancer_restarts", 1, counter=True),
        Sample("http_balancer_changes", 1, (("how", "live"),), counter=True),
        *http_stats.samples(rows),
    ]
    return [(engine, sample) for sample in counted]


class _NoDrops:
    def switch(self, on: bool) -> None:
        raise AssertionError(on)

    def __aiter__(self) -> Any:
        raise AssertionError

    async def suppressed(self) -> Any:
        raise AssertionError


async def _of_network_functions() -> pb.Functions:
    stage = pb.FunctionStage(stage=5, packets=512, dropped=3, sampled=2, sampled_ns=3_000)
    drop = pb.FunctionDrops(reason=1, name="SOURCE_BLOCKED", packets=3, bytes=180)
    one = pb.FunctionState(function=pb.Function(name="blocklist"), stages=[stage], drops=[drop])
    return pb.Functions(functions=[one])


async def test_network_functions_tell_what_they_did() -> None:
    """Packets, verdicts and time by stage, drops by their own reasons."""
    found = {
        (sample.name.removeprefix("mizar_network_function_"), *sample.labels.values()): sample.value
        for metric in await (await daemon()).read(5)
        for sample in metric.samples
        if sample.name.startswith("mizar_network_function_") and sample.value
    }
    at = "blocklist", "ENDPOINT_INGRESS"
    assert found == {
        ("packets_total", *at): 512,
        ("verdicts_total", *at, "dropped"): 3,
        ("timed_packets_total", *at): 2,
        ("timed_seconds_total", *at): 3e-6,
        ("dropped_packets_total", "blocklist", "SOURCE_BLOCKED"): 3,
        ("dropped_bytes_total", "blocklist", "SOURCE_BLOCKED"): 180,
    }


def _of_protections() -> list[tuple[str, pb.DdosStatus]]:
    counts = [pb.DdosCount(kind="reflected", packets=4, bytes=400)]
    return [("red/shield", pb.DdosStatus(filter=True, counts=counts))]


async def test_protections_tell_what_they_keep_from_endpoints() -> None:
    """By tenant and name: packets by kind, and which measure is engaged."""
    found = {
        (sample.name.removeprefix("mizar_ddos_"), *sample.labels.values()): sample.value
        for metric in await (await daemon()).read(5)
        for sample in metric.samples
        if sample.name.startswith("mizar_ddos_")
    }
    of = "red", "shield"
    assert found == {
        ("packets_total", *of, "reflected"): 4,
        ("bytes_total", *of, "reflected"): 400,
        ("engaged", *of, "synCookies"): 0,
        ("engaged", *of, "reflection"): 1,
    }


async def daemon(vpcs: int = 1) -> DaemonMetrics:
    ledger = Ledger(Maps(), OWN, Limits(), list)
    await ledger.apply([PutDroplet(Droplet(OWN)), PutDroplet(Droplet(OTHER))])
    await ledger.apply([PutVpc(Vpc(number, (OWN,))) for number in range(1, vpcs + 1)])
    identity = Identity(OWN, b"", "eth0", "1", "i", "driver", "tcx")
    metrics = DaemonMetrics(
        identity, ledger, Hub(_NoDrops()), lambda: 1500, _of_functions, _of_network_functions, _of_protections
    )
    metrics.observe("Apply", 0.1, "")
    metrics.observe("Apply", 0.1, "INVALID_ARGUMENT")
    return metrics


async def everything() -> list[Metric]:
    manager = ManagerMetrics(Registry(), lambda: 0, lambda: 0, lambda _: "")
    manager.observe_round(0.1)
    gateway = GatewayMetrics(cast("Gateway", fakes.gateway(1, slow=True, pair=True))).read()
    return [*await (await daemon()).read(5), *await manager.read(), *gateway]


async def exposed() -> set[str]:
    """Names of series, and of families without samples."""
    found = {sample.name for metric in await everything() for sample in metric.samples}
    return found | {metric.name for metric in await everything()}


async def test_names_tell_units_and_kinds() -> None:
    """Counters end in _total; seconds and bytes are named; nothing is in milliseconds."""
    for metric in await everything():
        assert re.fullmatch(r"(mizar|process)_[a-z_]+", metric.name), metric.name
        assert metric.documentation.endswith(".")
        assert not re.search(r"_(ms|us|ns|kb|mb|milliseconds)(_|$)", metric.name)
        if metric.type == "counter":
            assert all(sample.name.endswith("_total") for sample in metric.samples)
        if metric.type == "histogram":
            assert metric.name.endswith("_seconds")


@pytest.mark.parametrize("vpcs", [1, 100, 400])
async def test_series_are_bounded(vpcs: int) -> None:
    """However many VPCs there are."""
    metrics = await (await daemon(vpcs)).read(0)
    for metric in metrics:
        if metric.name.startswith("mizar_vpc"):
            assert len({sample.labels["vpc"] for sample in metric.samples}) == min(vpcs, 101)
        assert "endpoint" not in metric.name or metric.name == "mizar_endpoints"


def test_series_of_a_gateway_are_bounded() -> None:
    """However many tenants there are: the others are summed up, and a counter of theirs never goes back."""
    gateway = fakes.gateway(400)
    metrics = GatewayMetrics(cast("Gateway", gateway))
    first = {metric.name: metric.samples for metric in metrics.read()}
    for name, labels in (("connections", 1), ("begun_connections", 1), ("refused_packets", 2), ("packets", 1)):
        assert len(first[f"mizar_gateway_{name}"]) == 101 * labels, name
    fakes.leave_tenants(gateway, 200)
    second = {metric.name: metric.samples for metric in metrics.read()}
    for name, others in (("connections", 100), ("begun_connections", 300), ("packets", 300)):
        (value,) = (one.value for one in second[f"mizar_gateway_{name}"] if "other" in one.labels.values())
        assert value == others, name
    assert sum(one.value for one in second["mizar_gateway_connections"]) == 200


async def test_the_dashboard_asks_for_what_there_is() -> None:
    """Every query of the Grafana file, and each asks for something of ours."""
    board = json.loads((ROOT / "contrib" / "grafana" / "mizar.json").read_text())
    known = await exposed()
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 15
    for query in queries:
        assert query.count("(") == query.count(")")
        names = set(NAME.findall(query))
        assert names, query
        assert names <= known, query
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


async def test_the_docs_list_every_metric_and_no_other() -> None:
    """docs/metrics.md, and names in prose."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    named = {name for name in NAME.findall(text) if not name.startswith("process_")}
    found = await everything()
    ours = {metric.name for metric in found if metric.name.startswith("mizar_")}
    full = {f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in found} & {
        *ours,
        *(f"{name}_total" for name in ours),
    }
    assert named == full
