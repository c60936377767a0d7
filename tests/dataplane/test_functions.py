# SPDX-License-Identifier: Apache-2.0
"""Network functions at every stage: what they are told, what their verdicts do, in which order, and for whom."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from mizar.kernel import libbpf, test_run
from mizar.kernel.function_chains import Chains
from mizar.kernel.function_tables import FunctionTables
from mizar.kernel.functions import Place, Room
from mizar.kernel.layout import U32, constant, parse, struct
from mizar.model.drop_reasons import by_name
from mizar.model.function_object import STAGES

from .chained import CONTINUE, DROP, PASS, REDIRECT, TRANSMIT, Chained, chained, from_text, member, saying
from .frames import datagram, tunnel
from .plan import BLUE, BOUNCER, DIVIDER, FAMILIES, FRONT, HANDOVER_SEND, HOST, RED, A, B, R, V
from .test_limits import LIMITED, full, limit
from .test_services import scaled, service
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, Testbed

XDP_REDIRECT = 4
SHAPED, SENDER = 0x40000000, 71
"""Mark of what an endpoint sends through the shaper, and an interface of it that is not the one test frames come by."""
Run = Callable[[Testbed, int], test_run.TestRun]


def bounced(droplet: Testbed, family: int = 4) -> test_run.TestRun:
    droplet.as_bouncer()
    return droplet.transit(tunnel("geneve", datagram(family, A, R.address(family)), src=HOST))


def delivered(droplet: Testbed, family: int = 4) -> test_run.TestRun:
    droplet.as_host()
    return droplet.transit(tunnel("vxlan", datagram(family, R, A.address(family), dst_mac=A.mac), src=BOUNCER))


def passed(droplet: Testbed, family: int = 4) -> test_run.TestRun:
    """Not for Mizar: the host's own."""
    droplet.as_host()
    return droplet.transit(bytes(datagram(family, R, A.address(family))))


def refused(droplet: Testbed, family: int = 4) -> test_run.TestRun:
    """Of a VPC that nobody here knows an endpoint of."""
    droplet.as_host()
    droplet.tables.vpcs.put(RED.vni, {"slot": RED.slot})
    inner = datagram(family, R, FRONT.address(family, 200), src_mac=R.mac, ttl=1)
    return droplet.transit(tunnel("geneve", inner, src=BOUNCER))


def for_service(droplet: Testbed, family: int = 4) -> test_run.TestRun:
    droplet.as_bouncer()
    scaled(droplet, R)
    return droplet.transit(tunnel("geneve", datagram(family, A, service(family)), src=HOST))


def neighbours(droplet: Testbed, family: int = 4) -> test_run.TestRun:
    droplet.as_host()
    return droplet.send(datagram(family, A, B.address(family)))


def sent(droplet: Testbed, family: int = 4) -> test_run.TestRun:
    droplet.as_host()
    return droplet.send(datagram(family, A, R.address(family)))


def sent_to_service(droplet: Testbed, family: int = 4) -> test_run.TestRun:
    droplet.as_host()
    scaled(droplet, R)
    return droplet.send(datagram(family, A, service(family)))


XDP_STAGES: dict[str, Run] = {
    "ON_XDP_TX": bounced,
    "ON_XDP_PASS": passed,
    "ON_XDP_DROP": refused,
    "ON_XDP_SCALED_EP": for_service,
    "ENDPOINT_INGRESS": delivered,
}
TC_STAGES: dict[str, Run] = {
    "ON_XDP_SCALED_EP": sent_to_service,
    "ENDPOINT_INGRESS": neighbours,
    "ENDPOINT_EGRESS": sent,
}
EVERYWHERE = [("xdp", stage, run) for stage, run in XDP_STAGES.items()] + [
    ("tc", stage, run) for stage, run in TC_STAGES.items()
]
everywhere = pytest.mark.parametrize(
    ("hook", "stage", "run"), EVERYWHERE, ids=[f"{stage}-{hook}" for hook, stage, _ in EVERYWHERE]
)


def same(one: test_run.TestRun, other: test_run.TestRun) -> bool:
    return (one.retval, one.frame, one.metadata) == (other.retval, other.frame, other.metadata)


@everywhere
@pytest.mark.parametrize("family", FAMILIES)
def test_a_function_that_continues_changes_nothing(
    functions: Chained, droplet: Testbed, hook: str, stage: str, run: Run, family: int
) -> None:
    """The frame, the verdict, the note and the data plane's counters are as without it; and it is told of the frame."""
    plain = run(droplet, family)
    counted = droplet.counted()
    droplet.reset()
    functions.put({stage: [saying(CONTINUE)]})
    assert same(run(droplet, family), plain)
    assert droplet.counted() == counted
    assert functions.trail(stage) == 1
    told = functions.told(stage)
    assert told["family"] == family
    assert told["protocol"] == 17
    assert told["transport_at"] - told["network_at"] == {4: 20, 6: 40}[family]
    assert told["vni"] == (0 if stage == "ON_XDP_PASS" else RED.vni)


@everywhere
def test_a_function_drops_for_a_reason_of_its_own(
    functions: Chained, droplet: Testbed, hook: str, stage: str, run: Run
) -> None:
    """The frame ends; its counters are those of the function, of its reason, and FUNCTION_REFUSED's."""
    functions.put({stage: [saying(DROP, 5, reason=2), saying(CONTINUE, 6)]})
    assert run(droplet, 4).retval == (XDP_DROP if hook == "xdp" else TC_SHOT)
    assert droplet.counted()["drop", "FUNCTION_REFUSED"]["packets"] == 1
    drops = functions.tables.drops.get(5 * 32 + 2)
    assert drops is not None
    assert drops["packets"] == 1
    counters = functions.tables.counters.get(5 * len(STAGES) + STAGES.index(stage))
    assert counters is not None
    assert (counters["packets"], counters["verdicts"]) == (1, (0, 1, 0, 0, 0))
    assert functions.tables.counters.get(6 * len(STAGES) + STAGES.index(stage)) == {
        "packets": 0, "verdicts": (0, 0, 0, 0, 0), "sampled": 0, "sampled_ns": 0,
    }  # fmt: skip


@everywhere
def test_a_function_that_passes_ends_the_chain_and_the_pipeline_goes_on(
    functions: Chained, droplet: Testbed, hook: str, stage: str, run: Run
) -> None:
    plain = run(droplet, 4)
    droplet.reset()
    functions.put({stage: [saying(PASS, label=1), saying(DROP, 1, label=2)]})
    found = run(droplet, 4)
    if stage == "ON_XDP_DROP":
        assert (found.retval, found.frame) == (XDP_PASS, plain.frame)
    else:
        assert same(found, plain)
    assert functions.trail(stage) == 1


@everywhere
def test_a_function_redirects(functions: Chained, droplet: Testbed, hook: str, stage: str, run: Run) -> None:
    """Out of another interface; at Transit XDP, functions of ON_XDP_REDIRECT see it then."""
    chains = {stage: [saying(REDIRECT, ifindex=1, label=1), saying(DROP, 1)]}
    functions.put(chains | {"ON_XDP_REDIRECT": [saying(CONTINUE, 2, label=3)]})
    assert run(droplet, 4).retval == (XDP_REDIRECT if hook == "xdp" else TC_REDIRECT)
    assert functions.trail(stage) == 1
    assert functions.trail("ON_XDP_REDIRECT") == (3 if hook == "xdp" else 0)
    functions.put(chains | {"ON_XDP_REDIRECT": [saying(DROP, 2)]})
    assert run(droplet, 4).retval == (XDP_DROP if hook == "xdp" else TC_REDIRECT)


@everywhere
def test_a_function_transmits(functions: Chained, droplet: Testbed, hook: str, stage: str, run: Run) -> None:
    """Back out of the interface that it came in by."""
    functions.put({stage: [saying(TRANSMIT), saying(DROP, 1)]})
    assert run(droplet, 4).retval == (XDP_TX if hook == "xdp" else TC_REDIRECT)


def test_what_transmits_over_a_veth_is_left_to_deliver() -> None:
    """As Transit XDP itself sends there; a note for a delivery is void then."""
    testbed = Testbed(send_by_tc=1)
    try:
        with chained(testbed) as functions:
            functions.put({"ON_XDP_TX": [saying(TRANSMIT)], "ENDPOINT_INGRESS": [saying(TRANSMIT)]})
            for run in (bounced, delivered):
                found = run(testbed)
                testbed.reset()
                assert found.retval == XDP_PASS
                assert parse("handover", found.metadata)["magic"] == HANDOVER_SEND
    finally:
        testbed.close()


def test_functions_of_a_stage_run_in_their_order(functions: Chained, droplet: Testbed) -> None:
    """And only those whose bit the frame has; a change of order is one of the next packet."""
    plain = bounced(droplet)
    members = [saying(CONTINUE, number, label=number + 1) for number in range(5)]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [1, 3], [3, 1, 0]):
        droplet.reset()
        functions.put({"ON_XDP_TX": [members[number] for number in order]})
        assert same(bounced(droplet), plain)
        assert functions.trail("ON_XDP_TX") == int("".join(str(number + 1) for number in order))
    functions.put({"ON_XDP_TX": members}, droplet=0b10110)
    bounced(droplet)
    assert functions.trail("ON_XDP_TX") == 235
    droplet.reset()
    functions.put({"ON_XDP_TX": [saying(CONTINUE, number) for number in range(constant("FUNCTION_CHAIN"))]})
    assert same(bounced(droplet), plain)
    assert functions.trail("ON_XDP_TX") == 1111111111111111, "each of a full stage is asked"


def test_a_function_is_for_frames_of_its_scopes(functions: Chained, droplet: Testbed) -> None:
    """VPC, network and group of frames in tunnels; the endpoint that sends or receives."""
    tables, one = functions.tables, saying(CONTINUE)
    every = {stage: [one] for stage in ("ON_XDP_TX", "ENDPOINT_INGRESS", "ENDPOINT_EGRESS")}
    functions.put(every, droplet=0, finer=1)

    def asked(stage: str, run: Run) -> bool:
        droplet.reset()
        run(droplet, 4)
        return functions.trail(stage) == 1

    for table, key, stage, run in (
        (tables.vpc_functions, RED.slot, "ON_XDP_TX", bounced),
        (tables.network_functions, FRONT.slot, "ON_XDP_TX", bounced),
        (tables.endpoint_functions, A.slot, "ENDPOINT_EGRESS", sent),
        (tables.endpoint_functions, A.slot, "ENDPOINT_INGRESS", delivered),
        (tables.endpoint_functions, B.slot, "ENDPOINT_INGRESS", neighbours),
    ):
        assert not asked(stage, run)
        table.put(key, 1)
        assert asked(stage, run)
        table.put(key, 2)
        assert not asked(stage, run)
        table.put(key, 0)
    tables.group_functions.put({"vni": RED.vni, "number": 9}, 1)
    droplet.reset()
    droplet.as_bouncer()
    for group in (9, 8):
        droplet.transit(tunnel("vxlan", datagram(4, A, R.address(4)), src=HOST, group=group))
        assert functions.trail("ON_XDP_TX") == (1 if group == 9 else 0)
    tables.group_functions.delete({"vni": RED.vni, "number": 9})


def test_a_function_is_told_of_the_frame_as_it_is(functions: Chained, droplet: Testbed) -> None:
    """In its tunnel as it leaves; without it where it is delivered; and places are those of the headers."""
    functions.put({"ON_XDP_TX": [saying(CONTINUE)], "ENDPOINT_INGRESS": [saying(CONTINUE)]})
    droplet.as_bouncer()
    found = droplet.transit(tunnel("vxlan", datagram(6, A, R.address(6)), src=HOST, group=9))
    told = functions.told("ON_XDP_TX")
    assert (told["tunnel"], told["outer_family"], told["wire_vni"]) == (1, 4, RED.vni)
    assert (told["from"], told["group_set"], told["verdict"]) == (HOST.slot, 9, XDP_TX)
    assert found.frame[told["network_at"] + 8 : told["network_at"] + 24] == told["src"]
    assert (told["options_at"], told["option_bytes"], told["inner_at"]) == (0, 0, 50)
    droplet.reset()
    bounced(droplet, 4)
    told = functions.told("ON_XDP_TX")
    assert (told["options_at"], told["option_bytes"], told["inner_at"]) == (50, 8, 58)
    droplet.reset()
    found = delivered(droplet, 4)
    told = functions.told("ENDPOINT_INGRESS")
    assert (told["tunnel"], told["inner_at"], told["network_at"], told["transport_at"]) == (0, 0, 14, 34)
    assert (told["endpoint"], told["ifindex"], told["vni"]) == (A.slot, A.ifindex, RED.vni)


def test_a_dropped_frame_tells_why(functions: Chained, droplet: Testbed) -> None:
    functions.put({"ON_XDP_DROP": [saying(CONTINUE)]})
    refused(droplet)
    name = next(key[1] for key in droplet.counted() if key[0] == "drop")
    assert functions.told("ON_XDP_DROP")["reason"] == by_name()[name].number
    assert functions.told("ON_XDP_DROP")["verdict"] == XDP_DROP


def test_what_an_egress_function_rewrites_is_checked_then(functions: Chained, droplet: Testbed) -> None:
    """A function comes before the checks: a source that it forges is spoofed, as if the endpoint had."""
    forge = from_text(
        "uint8_t *source = mizar_bytes(call, call->frame->network_at + 12, 4);\n"
        "if (!source) return FUNCTION_CONTINUE;\n source[3] ^= 64; return FUNCTION_CONTINUE;"
    )
    functions.put({"ENDPOINT_EGRESS": [member(forge)]})
    assert sent(droplet).retval == TC_SHOT
    assert ("drop", "SPOOFED_ADDRESS") in droplet.counted()


def test_no_frame_takes_another_ones_way_around_a_function(functions: Chained, droplet: Testbed) -> None:
    """However a frame ends in the middle, the next one begins at the beginning."""
    for stage, run in (
        ("ENDPOINT_EGRESS", sent),
        ("ON_XDP_SCALED_EP", sent_to_service),
        ("ON_XDP_SCALED_EP", for_service),
    ):
        for verdict in (DROP, REDIRECT, TRANSMIT, PASS, CONTINUE):
            functions.put({stage: [saying(verdict, ifindex=1)]})
            for _ in range(3):
                droplet.reset()
                run(droplet, 4)
            assert functions.trail(stage) == 111, (stage, verdict)


def test_what_a_lost_frame_has_left_lets_no_other_one_past_a_function(functions: Chained, droplet: Testbed) -> None:
    """A frame whose endpoint has gone while it was in its chain ends without a look. The next one is another's."""
    maps = droplet.programs.maps
    left = from_text(
        "uint32_t key = call->frame->ifindex, place = key & (AGENT_VERSIONS - 1), *version;\n"
        "bpf_map_delete_elem(&agents, &key);\nversion = bpf_map_lookup_elem(&agent_versions, &place);\n"
        "if (version)\n(*version)++;\nreturn FUNCTION_CONTINUE;",
        "".join(
            f"MIZAR_MAP({kind}, {name}, uint32_t, {value}, {libbpf.info('map', maps[name]).max_entries}, {flags});\n"
            for kind, name, value, flags in (
                ("BPF_MAP_TYPE_HASH", "agents", "struct agent", "BPF_F_NO_PREALLOC"),
                ("BPF_MAP_TYPE_ARRAY", "agent_versions", "uint32_t", "0"),
            )
        ),
        name="leaving",
    )  # fmt: skip
    functions.own["leaving"] = {name: os.dup(maps[name]) for name in ("agents", "agent_versions")}  # else closed to it
    functions.put({"ENDPOINT_EGRESS": [member(left)]})
    assert sent(droplet).retval == TC_SHOT
    assert droplet.counted()["drop", "AGENT_UNCONFIGURED"]["packets"] == 1
    functions.put({"ENDPOINT_EGRESS": [saying(CONTINUE)]})
    droplet.reset()
    droplet.as_host()
    for stage in ("ENDPOINT_EGRESS", "ON_XDP_SCALED_EP"):
        leave(functions, stage=STAGES.index(stage), ifindex=B.ifindex)
        sent(droplet)
        assert functions.trail("ENDPOINT_EGRESS") == 1


def leave(functions: Chained, **frame: Any) -> None:
    """What a frame that got lost in its chain leaves behind, on each CPU."""
    data = struct("function_frame", **frame)
    fd = functions.tables.frames.fd
    libbpf.check(libbpf.lib().bpf_map_update_elem(fd, U32.pack(0), data * libbpf.possible_cpus(), 0), "leave a frame")


def behind_the_shaper(droplet: Testbed) -> None:
    """The sender's agent is that of another interface than the one by which test frames come: that is the far end now.
    Its limit is used up."""
    agent = droplet.tables.agents.get(A.ifindex)
    assert agent is not None
    droplet.tables.agents.delete(A.ifindex)
    droplet.tables.agents.put(SENDER, agent)
    limit(droplet, A, egress=(full(droplet),), egress_class=0x10004)
    agent["flags"] |= LIMITED
    droplet.tables.agents.put(SENDER, agent)
    droplet.tables.shaper.put(0, 77)


@pytest.mark.parametrize("stage", TC_STAGES)
@pytest.mark.parametrize("verdict", [CONTINUE, PASS, TRANSMIT, DROP])
def test_what_has_waited_in_the_shaper_meets_functions_once(
    functions: Chained, droplet: Testbed, stage: str, verdict: int
) -> None:
    """And goes on as what has not waited does. It waits before it meets them, and never twice: no clock of bytes is
    asked behind the shaper, though the limit is used up. What a function sends back goes to its sender."""
    target = {"ENDPOINT_EGRESS": R.address(4), "ON_XDP_SCALED_EP": service(4), "ENDPOINT_INGRESS": B.address(4)}[stage]
    frame = bytes(datagram(4, A, target))
    functions.put({stage: [saying(verdict)]})
    plain = TC_STAGES[stage](droplet, 4)
    functions.trail(stage)
    limit(droplet, A, egress=(full(droplet),), egress_class=0x10004)
    droplet.tables.shaper.put(0, 77)
    waiting = droplet.send(frame)
    assert (waiting.retval, waiting.frame, functions.trail(stage)) == (TC_REDIRECT, frame, 0)
    behind_the_shaper(droplet)
    for _ in range(2):
        found = test_run.run_tc(droplet.programs.programs["shaped"].fd, frame, mark=SHAPED | SENDER)
        assert same(found, plain)
        assert functions.trail(stage) == 1
    told = functions.told(stage)
    assert (told["came_by"], told["entered_by"]) == (SENDER, 1)
    assert not [name for kind, name in droplet.counted() if kind == "drop" and name != "FUNCTION_REFUSED"]


def test_no_frame_is_taken_for_one_that_has_waited(functions: Chained, droplet: Testbed) -> None:
    """A frame got lost in its chain behind the shaper. The next one of an interface that has no agent (any more) is
    nobody's, and the next one from the shaper begins at the beginning."""
    functions.put({"ENDPOINT_EGRESS": [saying(CONTINUE)]})
    droplet.as_host()
    behind_the_shaper(droplet)
    lost = {"stage": STAGES.index("ENDPOINT_EGRESS"), "ifindex": SENDER}
    leave(functions, **lost, entered_by=78)
    assert droplet.send(datagram(4, A, R.address(4))).retval == TC_SHOT
    assert droplet.counted()["drop", "AGENT_UNCONFIGURED"]["packets"] == 1
    leave(functions, **lost, entered_by=1)
    frame = bytes(datagram(4, A, R.address(4)))
    assert test_run.run_tc(droplet.programs.programs["shaped"].fd, frame, mark=SHAPED | SENDER).retval == TC_REDIRECT
    assert functions.trail("ENDPOINT_EGRESS") == 1


def test_no_groups_are_told_across_a_peering(functions: Chained, droplet: Testbed) -> None:
    """The number of a set of groups means something in the sender's own VPC; in the receiver's it may be anybody's."""
    functions.put({"ON_XDP_TX": [saying(CONTINUE)]}, droplet=0, finer=1)
    functions.tables.group_functions.put({"vni": BLUE.vni, "number": 9}, 1)
    functions.tables.group_functions.put({"vni": RED.vni, "number": 9}, 1)
    droplet.as_crossing(DIVIDER)
    assert droplet.transit(tunnel("vxlan", datagram(4, A, V.address(4)), src=HOST, group=9)).retval == XDP_TX
    assert functions.trail("ON_XDP_TX") == 0
    functions.tables.vpc_functions.put(BLUE.slot, 1)
    droplet.transit(tunnel("vxlan", datagram(4, A, V.address(4)), src=HOST, group=9))
    assert (functions.trail("ON_XDP_TX"), functions.told("ON_XDP_TX")["group_set"]) == (1, 0)
    functions.tables.vpc_functions.put(BLUE.slot, 0)
    for vpc in (RED, BLUE):
        functions.tables.group_functions.delete({"vni": vpc.vni, "number": 9})


def test_a_droplet_in_generic_mode_has_chains_of_its_own(droplet: Testbed) -> None:
    """Its Transit XDP takes one buffer, and may end in such programs alone."""
    generic = droplet.programs.transit_generic
    maps = {**droplet.programs.maps, "function_xdp": droplet.programs.maps["function_xdp_generic"]}
    chains = Chains(FunctionTables.of(droplet.programs.maps, generic=True), Room(maps, several_buffers=False))
    droplet.as_bouncer()
    frame = tunnel("geneve", datagram(4, A, R.address(4)), src=HOST)
    try:
        chains.commit(chains.prepare({Place("ON_XDP_TX", "xdp"): [saying(DROP)]}, {"verdict": {}}), 1, 0)
        assert test_run.run_xdp(generic.fd, frame).retval == XDP_DROP
    finally:
        chains.commit(chains.prepare({}, {}), 0, 0)
        chains.close()
    assert test_run.run_xdp(generic.fd, frame).retval == XDP_TX
