# SPDX-License-Identifier: Apache-2.0
"""`mizar function new, build, test`: a template that works, frames in and frames out, refusals that say why."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mizar.cli.main import app
from mizar.functions import cases, harness
from mizar.kernel import clang
from mizar.model.errors import InvalidError, ManifestErrors, MizarError
from tests.functions.conftest import Compile
from tests.functions.test_object import SOURCE

pytestmark = pytest.mark.root
F = "function: f\ncases:\n"
FRAME = "{ipv4: {src: 10.0.1.2}, udp: {dst: 53}, payload: abcd}"


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def mizar(*arguments: str) -> Any:
    """The command line, in this process."""
    return CliRunner().invoke(app, ["function", *arguments], catch_exceptions=True)


def tried(compiled: Compile, body: str, text: str, before: str = "") -> harness.Result:
    """Cases run on a function with this body, at ENDPOINT_INGRESS and ENDPOINT_EGRESS."""
    stages = "MIZAR_STAGE(ENDPOINT_INGRESS_STAGE) | MIZAR_STAGE(ENDPOINT_EGRESS_STAGE) | MIZAR_STAGE(ON_XDP_TX)"
    data = compiled(f"{before}\nMIZAR_FUNCTION(tried, {stages})\n{{ {body} }}")
    return harness.run(data, cases.parse("function: tried\n" + text, "tried.test.yaml"))


def test_from_nothing_to_a_tested_function(tmp_path: Path) -> None:
    """The template's own test passes; once its source is changed, it fails and says how."""
    assert mizar("new", "closed-ports", "-C", str(tmp_path)).exit_code == 0
    folder = tmp_path / "closed-ports"
    assert sorted(one.name for one in folder.iterdir()) == [
        "closed-ports.c",
        "closed-ports.test.yaml",
        "closed-ports.yaml",
    ]
    assert isinstance(mizar("new", "closed-ports", "-C", str(tmp_path)).exception, MizarError)
    built = json.loads(mizar("build", str(folder), "-o", "json").stdout)
    assert (built["function"], built["reasons"], built["maps"]) == ("closed-ports", ["PORT_CLOSED"], ["ports"])
    ran = mizar("test", str(folder), "-o", "json")
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert len(told["cases"]) == 8
    assert all(0 < count < 1000 for count in told["instructions"].values())
    source = folder / "closed-ports.c"
    source.write_text(
        source.read_text().replace("__sync_fetch_and_add(refused, 1)", "__sync_fetch_and_add(refused, 2)")
    )
    ran = mizar("test", str(folder))
    assert ran.exit_code == 1
    assert "maps: ports[5353] is 0200000000000000, expected 0100000000000000" in ran.stdout
    source.write_text(source.read_text().replace("uint32_t port;", "uint32_t port"))
    with pytest.raises(InvalidError, match=r"clang refused closed-ports\.c"):
        raise mizar("build", str(folder)).exception


def test_verdicts_frames_and_context(compiled: Compile) -> None:
    """A frame that grows and one that changes are compared whole; the context is what the data plane would tell."""
    body = """
	uint8_t *ip = mizar_bytes(call, call->frame->network_at, 20);

	if (!ip || call->frame->vni != 9)
		return FUNCTION_PASS;
	if (call->stage == ON_XDP_TX)
		return mizar_transmit(call);
	ip[1] = 46 << 2;
	return call->xdp ? mizar_redirect(call, 3) : FUNCTION_CONTINUE;
    """
    text = f"""
cases:
  - {{name: another VPC, stage: ENDPOINT_INGRESS, frame: {FRAME}, expect: {{verdict: pass, frame: same}}}}
  - {{name: sent back, stage: ON_XDP_TX, frame: {FRAME}, context: {{vni: 9}}, expect: {{verdict: transmit}}}}
  - {{name: led away, stage: ENDPOINT_INGRESS, hook: xdp, frame: {FRAME}, context: {{vni: 9}},
     expect: {{verdict: redirect}}}}
  - {{name: other bytes, stage: ENDPOINT_EGRESS, frame: {FRAME}, context: {{vni: 9}},
     expect: {{verdict: continue, frame: same}}}}
"""
    result = tried(compiled, body, text)
    assert [one.verdict for one in result.ran] == ["pass", "pass", "transmit", "redirect", "continue"]
    assert [one.problems for one in result.ran[:-1]] == [()] * 4
    assert result.ran[-1].problems == ("frame: byte 15: expected 00, found b8",)


def test_parameters_and_shared_maps(compiled: Compile) -> None:
    """Constants of a function, and entries in maps of the data plane's."""
    text = """
function: two-words
parameters: {most: 5}
maps: {seen: [{key: 0, value: {count: 1}}]}
cases:
  - {name: it has seen, stage: ON_XDP_TX, frame: {ipv4: {}}, expect: {verdict: drop, reason: OTHER}}
  - name: an endpoint is known
    stage: ON_XDP_TX
    maps: {endpoints: [{key: {}, value: {}}]}
    frame: {ipv4: {}}
    expect: {verdict: pass}
"""
    data = compiled(SOURCE)
    assert harness.run(data, cases.parse(text, "t")).failed == 0
    without = harness.run(data, cases.parse(text.replace("parameters: {most: 5}", ""), "t"))
    assert [one.verdict for one in without.ran] == ["continue", "pass"]
    for wrong, words in (
        (text.replace("seen:", "unseen:"), "no map unseen; it has"),
        (text.replace("most: 5", "least: 5"), "struct limits has"),
        (text.replace("two-words", "others"), "the object is two-words"),
        (text.replace("ON_XDP_TX", "ON_XDP_DROP"), "not made for ON_XDP_DROP"),
        (text.replace("frame: {ipv4: {}}", "frame: {ipv4: {}}, context: {colour: 1}", 1), "no field colour"),
    ):
        with pytest.raises(InvalidError, match=words):
            harness.run(data, cases.parse(wrong, "t"))


@pytest.mark.parametrize(("family", "protocol"), [("ipv4", "udp"), ("ipv6", "tcp")])
def test_checksums_are_right_after_a_rewrite(compiled: Compile, family: str, protocol: str) -> None:
    """Of a port and of a word of an address, on both hooks."""
    body = """
	struct function_frame *frame = call->frame;
	uint32_t check = frame->transport_at + (frame->protocol == 6 ? 16 : 6), ip = frame->family == 4 ? 18 : 38;
	uint16_t *port = mizar_bytes(call, frame->transport_at + 2, 2), *word, was;

	if (!port)
		return FUNCTION_PASS;
	was = *port;
	*port = bpf_htons(8000);
	if (mizar_checksum(call, check, MIZAR_OF_TRANSPORT, was, bpf_htons(8000)))
		return FUNCTION_PASS;
	word = mizar_bytes(call, frame->network_at + ip, 2);
	if (!word)
		return FUNCTION_PASS;
	was = *word;
	*word = bpf_htons(0x0105);
	if (mizar_checksum(call, check, MIZAR_OF_ADDRESSES, was, bpf_htons(0x0105)))
		return FUNCTION_PASS;
	return frame->family == 4 && mizar_checksum(call, frame->network_at + 10, MIZAR_OF_HEADER, was, bpf_htons(0x0105)) ?
		FUNCTION_PASS : FUNCTION_CONTINUE;
    """
    to = {"ipv4": ("10.0.9.9", "10.0.1.5"), "ipv6": ("fd00::9", "fd00::105")}[family]
    text = f"""
cases:
  - name: both
    stage: [ENDPOINT_INGRESS, ENDPOINT_EGRESS]
    frame: {{{family}: {{dst: "{to[0]}"}}, {protocol}: {{dst: 80}}, payload: odd}}
    expect: {{verdict: continue, frame: {{{family}: {{dst: "{to[1]}"}}, {protocol}: {{dst: 8000}}}}}}
"""
    assert [one.problems for one in tried(compiled, body, text).ran] == [()] * 3


@pytest.mark.parametrize("kind", ["BPF_MAP_TYPE_PERCPU_HASH", "BPF_MAP_TYPE_PERCPU_ARRAY"])
def test_a_map_of_each_cpu_is_compared_where_the_function_ran(compiled: Compile, kind: str) -> None:
    """As any other: what was there before, and what the function made of it."""
    own = (
        f"struct pair {{ uint32_t a; uint64_t b; uint32_t c; }};\nMIZAR_MAP({kind}, own, uint32_t, struct pair, 4, 0);"
    )
    body = "uint32_t key = 2; struct pair *p = bpf_map_lookup_elem(&own, &key); if (p) p->c += 5; return 0;"
    text = f"""
cases:
  - name: one more
    stage: ENDPOINT_INGRESS
    maps: {{own: [{{key: 2, value: {{a: 1, b: 2, c: 3}}}}]}}
    frame: {FRAME}
    expect: {{verdict: continue, maps: {{own: [{{key: 2, value: {{a: 1, b: 2, c: 8}}}}]}}}}
"""
    assert [one.problems for one in tried(compiled, body, text, own).ran] == [(), ()]
    same = tried(compiled, body, text.replace("c: 8", "c: 3"), own)
    assert same.failed == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "return *(uint8_t *)mizar_data(call) ? FUNCTION_DROP : 0;",
            "nobody has checked that there are that many bytes",
        ),
        ("uint8_t *at = mizar_bytes(call, 0, 14); return at[0] ? FUNCTION_DROP : 0;", "NULL|nobody has checked"),
        (
            "uint32_t key = 1; return *(uint64_t *)bpf_map_lookup_elem(&own, &key) ? FUNCTION_DROP : 0;",
            "asking whether it is NULL",
        ),
        ("volatile uint32_t one = 1; while (one) one = 2; return FUNCTION_CONTINUE;", "never end|too complex"),
        (
            "uint32_t *at = bpf_map_lookup_elem(&own, &(uint32_t){1}); return at && at[9] ? FUNCTION_DROP : 0;",
            "behind the end",
        ),
        (
            "bpf_set_hash_invalid(call->ctx); return FUNCTION_CONTINUE;",
            "a helper that programs of this hook do not have",
        ),
    ],
)
def test_what_the_verifier_refuses_is_explained(compiled: Compile, body: str, words: str) -> None:
    """In a sentence, with the line of the source; the rest of the log is left out."""
    text = f"cases:\n  - {{stage: ENDPOINT_INGRESS, hook: xdp, frame: {FRAME}, expect: {{verdict: continue}}}}"
    with pytest.raises(InvalidError, match=rf"the kernel refuses function tried: .*({words})") as refused:
        tried(compiled, body, text, "MIZAR_MAP(BPF_MAP_TYPE_HASH, own, uint32_t, uint64_t, 16, 0);")
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("function: f\ncases: []\n", 2, "cases"),
        ("cases:\n  - {stage: ON_XDP_TX, frame: {}, expect: {verdict: drop}}\n", 1, "function"),
        (F + "  - {stage: HERE, frame: {}, expect: {verdict: drop}}\n", 3, "cases[0].stage"),
        (F + "  - stage: ON_XDP_TX\n    frame: {ipv4: {ttl: 300}}\n    expect: {}\n", 4, "cases[0].frame.ipv4.ttl"),
        (F + "  - stage: ON_XDP_TX\n    frame: {}\n    expect: {verdict: maybe}\n", 5, "cases[0].expect.verdict"),
        (F + "  - stage: ON_XDP_TX\n    hook: tc\n    frame: {}\n    expect: {verdict: drop}\n", 4, "cases[0].hook"),
        ("function: f\ntests: []\ncases: [{stage: ON_XDP_TX, frame: {}, expect: {verdict: drop}}]\n", 2, "tests"),
        ("function: f\nmaps: {a: 1}\ncases: [{stage: ON_XDP_TX, frame: {}, expect: {verdict: drop}}]\n", 2, "maps.a"),
    ],
)  # fmt: skip
def test_a_test_that_is_wrong_is_refused_by_line_and_field(text: str, line: int, field: str) -> None:
    with pytest.raises(ManifestErrors) as refused:
        cases.parse(text, "f.test.yaml")
    assert (line, field) in [(problem.line, problem.field) for problem in refused.value.problems]


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names what is missing and how to get it."""
    source = tmp_path / "f.c"
    source.write_text("")
    clang.find_clang.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    try:
        said = mizar("build", str(source)).exception
        assert isinstance(said, MizarError)
        assert "needs clang 14 or newer" in str(said)
        assert "apt install clang" in str(said)
    finally:
        clang.find_clang.cache_clear()
    assert not source.with_suffix(".o").exists()
