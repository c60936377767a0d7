# SPDX-License-Identifier: Apache-2.0
"""Functions that another process has loaded: they run here as if they had been loaded here, and are refused alike."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mizar._built import transit_pb2 as pb
from mizar.kernel import functions as here
from mizar.kernel.bpffs import Pins
from mizar.kernel.function_loader import FunctionLoader
from mizar.model.errors import ExhaustedError, InvalidError
from mizar.transit.functions import Functions
from mizar.transit.state import Limits, State

from .chained import CONTINUE, DROP, Chained, chained, from_text, member, saying
from .test_functions import bounced, delivered
from .testbed import XDP_DROP, XDP_TX, Testbed

ENDS = """
import os, signal
from mizar.kernel import function_loader_process as process

real = process.load

def load(room, wanted, own):
    if wanted.name == "fatal":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(room, wanted, own)

process.load = load
process.main()
"""
"""Ends of a function called fatal, as a process does in which the kernel has a fault."""
EVERY = pb.FunctionScope(droplet=True)


@pytest.fixture(scope="module")
def loader() -> Iterator[FunctionLoader]:
    found = FunctionLoader()
    yield found
    found.close()


@pytest.fixture
def functions(droplet: Testbed, loader: FunctionLoader) -> Iterator[Chained]:
    with chained(droplet) as found:
        found.chains.load = loader.load
        yield found


def test_they_run_in_their_chains(functions: Chained, droplet: Testbed) -> None:
    """At both stages, told of the frame, with one map for both; the data plane's counters are written."""
    functions.put(
        {stage: [saying(CONTINUE), saying(CONTINUE, 1, label=2)] for stage in ("ON_XDP_TX", "ENDPOINT_INGRESS")}
    )
    assert bounced(droplet).retval == XDP_TX
    assert functions.trail("ON_XDP_TX") == 12
    delivered(droplet)
    assert functions.trail("ENDPOINT_INGRESS") == 12
    functions.put({"ON_XDP_TX": [saying(CONTINUE), saying(DROP, 1, label=2)]})
    droplet.reset()
    assert bounced(droplet).retval == XDP_DROP
    assert droplet.counted()["drop", "FUNCTION_REFUSED"]["packets"] == 1


@pytest.mark.parametrize(
    ("body", "before", "most", "kind"),
    [
        ("uint8_t *p = mizar_data(call); p[99] = 1; return 0;", "", 1000, InvalidError),
        ("return 0;", "MIZAR_SHARED_MAP(BPF_MAP_TYPE_HASH, nowhere, uint32_t, uint32_t, 0);", 1000, InvalidError),
        ("uint32_t key = 0; bpf_map_delete_elem(&vpcs, &key); return 0;", "MIZAR_SHARED(vpcs);", 1000, InvalidError),
        ("return 0;", "", 10, ExhaustedError),
    ],
)
def test_what_is_wrong_is_said_in_the_same_words(
    functions: Chained, loader: FunctionLoader, body: str, before: str, most: int, kind: type[Exception]
) -> None:
    wrong = member(from_text(body, before))
    functions.chains.room = here.Room(functions.chains.room.maps, several_buffers=True, most_instructions=most)
    said = []
    for load in (here.load, loader.load):
        functions.chains.load = load
        with pytest.raises(kind) as refused:
            functions.put({"ON_XDP_TX": [wrong]})
        said.append(str(refused.value))
    assert said[0] == said[1]


def told(name: str, body: str = "return FUNCTION_CONTINUE;") -> pb.Function:
    data = from_text(body, name=name)
    return pb.Function(name=name, object=data, digest=hashlib.sha256(data).digest(), scopes=[EVERY])


def test_nothing_is_disturbed_by_what_the_kernel_cannot_load(droplet: Testbed, tmp_path: Path) -> None:
    """A droplet's functions: the one that the kernel ends its loader for is refused by name, again and again; what was
    there runs on, others come and go, and another version of it is loaded."""
    pins = Pins.of(f"test-loader-{tmp_path.name}")
    pins.make()
    loader = FunctionLoader((sys.executable, "-c", ENDS))
    functions = Functions(droplet.programs.maps, pins, tmp_path / "told", generic=False, loader=loader)
    state = State(bytes(16), Limits())

    def put(*wanted: pb.Function) -> None:
        change = functions.prepare(pb.SetFunctionsRequest(functions=wanted))
        assert not isinstance(change, pb.SetFunctionsReply)
        functions.put(change, state)
        functions.finish(change)

    drops, fatal = told("drops", "return mizar_drop(call, 1);"), told("fatal")
    try:
        functions.restore(state)
        put(drops)
        assert bounced(droplet).retval == XDP_DROP
        ended = []
        for _ in range(2):
            with pytest.raises(InvalidError, match=r"function fatal.*the kernel's verifier ended the process.*SIGKILL"):
                put(drops, fatal)
            ended.append(loader.pid)
            droplet.reset()
            assert bounced(droplet).retval == XDP_DROP
            assert list(functions.held) == ["drops"]
            assert functions.own.folders() == ["drops"]
        assert ended[0] == ended[1], "it is not tried again"
        put(told("other"))
        droplet.reset()
        assert bounced(droplet).retval == XDP_TX
        put()
        assert [*pins.chains.iterdir(), *pins.functions.iterdir()] == []
    finally:
        functions.close()
        pins.remove()
