# SPDX-License-Identifier: Apache-2.0
"""The daemon's network functions: loaded, replaced and unloaded under traffic, for whom they are, and found again."""

from __future__ import annotations

import hashlib
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from mizar._built import transit_pb2 as pb
from mizar.kernel import libbpf
from mizar.kernel.bpffs import Pins
from mizar.kernel.function_tables import FunctionTables
from mizar.kernel.layout import constant
from mizar.model import elf
from mizar.model.function_object import STAGES
from mizar.transit.options import RUN_FOLDER
from tests.dataplane.chained import CONTINUE, DROP, from_text
from tests.transit.rig import FRONT, VNI, Droplet, Rig, until
from tests.transit.test_audit import audit
from tests.transit.test_life import Stream, alone
from tests.transit.traffic import ping, send_udp

EGRESS, INGRESS = STAGES.index("ENDPOINT_EGRESS"), STAGES.index("ENDPOINT_INGRESS")
COUNTING = "MIZAR_MAP(BPF_MAP_TYPE_ARRAY, counted, uint32_t, uint64_t, 1, 0);"
REASONS = 'MIZAR_REASONS({ 3, "TOLD_SO", "The test wants it." });'


def code(verdict: int, version: int = 0) -> bytes:
    """A function "trial" that counts in a map of its own and says a verdict."""
    body = f"""
        uint32_t key = 0;
        uint64_t *count = bpf_map_lookup_elem(&counted, &key);
        if (count) *count += {1 + version};
        return {verdict} == FUNCTION_DROP ? mizar_drop(call, 3) : {verdict};"""
    return from_text(body, COUNTING + "\n" + REASONS)


def function(
    data: bytes, *scopes: pb.FunctionScope, stages: tuple[int, ...] = (EGRESS,), name: str = "trial"
) -> pb.Function:
    return pb.Function(name=name, object=data, digest=hashlib.sha256(data).digest(), stages=stages, scopes=scopes)


EVERY = pb.FunctionScope(droplet=True)


def put(droplet: Droplet, *functions: pb.Function, most: int = 0) -> pb.SetFunctionsReply:
    request = pb.SetFunctionsRequest(functions=functions, most_instructions=most)
    reply = droplet.client.SetFunctions(request, timeout=30)
    assert not reply.missing
    return reply


def answered(namespace: str, address: str) -> bool:
    """Whether an echo is answered; one that is lost for a neighbour's sake is sent again."""
    return any(ping(namespace, address, 0.4) is not None for _ in range(3))


@contextmanager
def opened(instance: str) -> Iterator[FunctionTables]:
    """The pinned maps of functions."""
    fds = {path.name: libbpf.open_pin(path) or 0 for path in Pins.of(instance).maps.iterdir()}
    try:
        yield FunctionTables.of(fds)
    finally:
        for fd in fds.values():
            os.close(fd)


def left(droplet: Droplet) -> list[Path]:
    """What functions have pinned."""
    pins = Pins.of(droplet.name)
    return [*pins.chains.iterdir(), *pins.functions.rglob("*")]


def test_a_function_runs_for_whom_it_is(made: Rig) -> None:
    """VPC, network, endpoint: only their packets. What it drops is told with its own reason. Unloaded, it leaves
    nothing."""
    one, (first, second) = alone(made, "uid-1", "uid-2")
    assert answered(first, "10.0.1.12")
    scopes = {
        "none": (),
        "vni": (pb.FunctionScope(vni=VNI),),
        "network": (pb.FunctionScope(network=pb.NetworkKey(vni=VNI, id=FRONT)),),
        "uid": (pb.FunctionScope(uid="uid-1"),),
        "other": (pb.FunctionScope(uid="uid-9"), pb.FunctionScope(vni=VNI + 1)),
    }
    for name, scope in scopes.items():
        put(one, function(code(DROP), *scope, stages=(INGRESS,)))
        assert answered(second, "10.0.1.11") == (name in ("none", "other")), name
    put(one, function(code(DROP), pb.FunctionScope(uid="uid-1")))
    events = one.client.WatchEvents(pb.WatchEventsRequest(drops=True), timeout=30)
    events.initial_metadata()
    send_udp(first, "10.0.1.12", b"dropped")
    drop = next(event.drop for event in events if event.drop.function)
    assert (drop.name, drop.function, drop.function_reason) == ("FUNCTION_REFUSED", "trial", "TOLD_SO")
    assert (drop.sentence, drop.uid, drop.vni) == ("The test wants it.", "uid-1", VNI)
    (state,) = one.client.GetFunctions(pb.GetFunctionsRequest(), timeout=30).functions
    assert state.stages[0].dropped >= 1
    assert {found.name: found.packets >= 1 for found in state.drops} == {"TOLD_SO": True}
    assert list(state.maps) == ["counted"]
    assert Path(state.folder, "counted").exists()
    assert state.stages[0].instructions > 0
    assert audit(one) == []
    put(one)
    assert answered(first, "10.0.1.12")
    assert left(one) == []
    assert audit(one) == []


@pytest.mark.long
def test_a_function_is_replaced_under_traffic_and_no_packet_is_lost(made: Rig) -> None:
    """Loaded, replaced, reordered and unloaded, again and again: every datagram arrives; each change is quick."""
    one, (first, second) = alone(made, "uid-1", "uid-2")
    until(lambda: ping(first, "10.0.1.12") is not None, "the first answer")
    other = from_text("return FUNCTION_CONTINUE;", name="other")
    stream = Stream(first, second, "10.0.1.12")
    stream.start()
    took = []
    for version in range(6):
        mine = function(code(CONTINUE, version), EVERY, stages=(EGRESS, INGRESS))
        second_one = function(other, EVERY, stages=(EGRESS, INGRESS), name="other")
        second_one.order = version % 3 - 1
        for wanted in ((mine,), (mine, second_one), (second_one,) if version % 2 else ()):
            took.append(put(one, *wanted).elapsed_us)
    assert stream.missing() == set()
    assert stream.sent > 100
    print(sorted(took))


@pytest.mark.long
def test_functions_outlive_their_daemon(made: Rig) -> None:
    """Killed, it is gone and they go on; the next one knows them and their counters, and can unload them."""
    one, (first, _) = alone(made, "uid-1", "uid-2")
    assert answered(first, "10.0.1.12")
    put(one, function(code(DROP), pb.FunctionScope(uid="uid-1")))
    assert not answered(first, "10.0.1.12")
    one.stop(signal.SIGKILL)
    assert not answered(first, "10.0.1.12")
    one.start()
    assert not answered(first, "10.0.1.12")
    (state,) = one.client.GetFunctions(pb.GetFunctionsRequest(), timeout=30).functions
    assert state.function.name == "trial"
    assert state.stages[0].dropped >= 9
    assert audit(one) == []
    assert [found.name for found in one.state().functions] == ["trial"]
    known = pb.Function(name="trial", digest=state.function.digest, stages=(EGRESS,))
    known.scopes.add(uid="uid-2")
    assert put(one, known).changed == 1
    assert not answered(first, "10.0.1.12")  # the answer is uid-2's
    put(one)
    assert answered(first, "10.0.1.12")
    assert left(one) == []
    assert not (RUN_FOLDER / f"{one.name}.functions").exists()


@pytest.mark.long
def test_what_is_wrong_with_a_function_is_said_and_nothing_changes(made: Rig) -> None:
    """The verifier, the digest, a stage that it is not made for, a limit: refused by name, and the others run on."""
    one, (first, _) = alone(made, "uid-1", "uid-2")
    good = function(code(DROP), pb.FunctionScope(uid="uid-1"))
    put(one, good)
    wild = from_text("uint8_t *p = mizar_data(call); p[99] = 1; return 0;", name="wild")
    narrow = from_text("return 0;", name="narrow", stages="MIZAR_STAGE(ON_XDP_TX)")
    for bad, most, words in (
        (function(wild, EVERY, name="wild"), 0, "function wild at ENDPOINT_EGRESS.*nobody has checked"),
        (function(narrow, EVERY, name="narrow"), 0, "narrow is not made for stage ENDPOINT_EGRESS, but for ON_XDP_TX"),
        (function(code(CONTINUE), EVERY, name="another"), 0, "its object says that it is trial"),
        (function(narrow, EVERY, stages=(), name="narrow"), 10, "too complex"),
    ):
        with pytest.raises(grpc.RpcError, match=words):
            put(one, good, bad, most=most)
    assert list(
        one.client.SetFunctions(
            pb.SetFunctionsRequest(functions=[pb.Function(name="gone", digest=bytes(32))]), timeout=30
        ).missing
    ) == [bytes(32)]
    assert not answered(first, "10.0.1.12")
    (state,) = one.client.GetFunctions(pb.GetFunctionsRequest(), timeout=30).functions
    assert state.function.name == "trial"


@pytest.mark.long
def test_the_audit_finds_and_mends_what_somebody_did_to_functions(made: Rig) -> None:
    """Bits, switches and the beginning of a chain."""
    one, (first, _) = alone(made, "uid-1", "uid-2")
    put(one, function(code(DROP), pb.FunctionScope(uid="uid-1")))
    with opened(one.name) as tables:
        tables.switches.put(0, {})
        for slot, bits in list(tables.endpoint_functions.items()):
            if bits:
                tables.endpoint_functions.put(slot, 0)
    assert answered(first, "10.0.1.12")
    assert {found.table for found in audit(one, repair=True)} == {"function_switches", "endpoint_functions"}
    assert audit(one) == []
    assert not answered(first, "10.0.1.12")


def of_another_abi(data: bytes) -> bytes:
    """The object as if it had been built for another version of the platform."""
    about = elf.sections(data)[".rodata.about"]
    return elf.with_section(data, ".rodata.about", struct.pack("=I", constant("FUNCTION_ABI") + 1) + about[4:])


def upgraded(droplet: Droplet) -> None:
    """Ends the daemon, and begins another one for which all functions are of another version."""
    droplet.stop(signal.SIGTERM)
    told = pb.Functions.FromString(functions_file(droplet).read_bytes())
    for one in told.functions:
        one.function.object = of_another_abi(one.function.object)
        one.function.digest = hashlib.sha256(one.function.object).digest()
    functions_file(droplet).write_bytes(told.SerializeToString())
    droplet.start()


def functions_file(droplet: Droplet) -> Path:
    return next(path for path in RUN_FOLDER.glob(f"*{droplet.name}*") if "functions" in path.name)


def test_a_function_that_an_upgrade_cannot_load_lets_nothing_past(made: Rig) -> None:
    """What it was for is refused, with the reason and its name, and nothing else, while the droplet is told the same
    again; its maps wait. A version that can be loaded takes over."""
    one, (first, second) = alone(made, "uid-1", "uid-2")
    lets = function(code(CONTINUE), pb.FunctionScope(uid="uid-1"))
    put(one, lets)
    assert answered(first, "10.0.1.12")
    upgraded(one)
    events = one.client.WatchEvents(pb.WatchEventsRequest(drops=True), timeout=30)
    events.initial_metadata()
    assert ping(first, "10.0.1.12", 0.3) is None
    drop = next(event.drop for event in events if event.drop.function)
    assert (drop.name, drop.function, drop.uid) == ("FUNCTION_MISSING", "trial", "uid-1")
    (state,) = one.client.GetFunctions(pb.GetFunctionsRequest(), timeout=30).functions
    assert "built for version" in state.problem
    reply = put(one, state.function)
    assert "built for version" in reply.lost["trial"]
    assert ping(first, "10.0.1.12", 0.3) is None
    assert Path(state.folder, "counted").exists()
    assert audit(one) == []
    with pytest.raises(grpc.RpcError):
        put(one, function(of_another_abi(code(CONTINUE, 1)), pb.FunctionScope(uid="uid-1")))
    assert ping(first, "10.0.1.12", 0.3) is None
    assert not put(one, lets).lost
    assert answered(first, "10.0.1.12")
    assert answered(second, "10.0.1.11")


@pytest.mark.long
def test_a_function_that_may_be_missing_is_left_out(made: Rig) -> None:
    """It fails open: what it was for goes on, and it leaves nothing."""
    one, (first, _) = alone(made, "uid-1", "uid-2")
    drops = function(code(DROP), pb.FunctionScope(uid="uid-1"))
    drops.fail_open = True
    put(one, drops)
    assert not answered(first, "10.0.1.12")
    upgraded(one)
    assert answered(first, "10.0.1.12")
    assert left(one) == []


def loaders(parent: int) -> list[int]:
    """The processes that load functions for a daemon."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and b"function_loader_process" in (folder / "cmdline").read_bytes():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                found += [int(folder.name)] * (int(fields[1]) == parent and fields[0] != "Z")
    return found


def test_functions_are_loaded_by_a_process_that_may_end(made: Rig) -> None:
    """It is there before it is needed; another one takes its place; it ends with its daemon, however that ends."""
    one, (first, _) = alone(made, "uid-1", "uid-2")
    assert one.process is not None
    daemon = one.process.pid
    (loader,) = until(lambda: loaders(daemon), "the process that loads functions")
    os.kill(loader, signal.SIGKILL)
    put(one, function(code(DROP), pb.FunctionScope(uid="uid-1")))
    assert not answered(first, "10.0.1.12")
    (another,) = loaders(daemon)
    assert another != loader
    one.stop(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{another}").exists(), "nobody loads for a daemon that is gone")
