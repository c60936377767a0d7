# SPDX-License-Identifier: Apache-2.0
"""Loading: one set of maps for all programs, pins that are reused, refusals that explain themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from mizar.kernel import bpffs, layout, libbpf, programs
from mizar.kernel.bpffs import Pins
from mizar.kernel.programs import OBJECTS, Programs, load
from mizar.kernel.tables import Tables
from mizar.kernel.test_run import run_tc, run_xdp
from mizar.model.errors import ConflictError, InvalidError, MizarError

from .conftest import CONFIG, SMALL

pytestmark = pytest.mark.root

needs_clang = pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang, as the build does")

SAMPLE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "dataplane.h"
const volatile struct droplet_config config SEC(".rodata.config");
char _license[] SEC("license") = "GPL";
"""
XDP_SAMPLE = """
SEC("xdp") int transit(struct xdp_md *ctx)
{
	unsigned *meta = (void *)(long)ctx->data_meta, *data = (void *)(long)ctx->data;
	if (meta + 1 > data)
		return config.ifindex;
	*meta += 1;
	return bpf_xdp_adjust_head(ctx, -4) ? 0 : ctx->ingress_ifindex;
}
"""
TC_SAMPLE = """
SEC("tc") int agent(struct __sk_buff *skb)
{
	skb->mark += 1;
	return skb->ifindex;
}
"""
REFUSED = """
SEC("xdp") int transit(struct xdp_md *ctx)
{
	return *(unsigned char *)(long)ctx->data;
}
"""


def compiled(text: str, folder: Path) -> bytes:
    (folder / "sample.c").write_text(SAMPLE + text)
    (folder / "dataplane.h").write_text(layout.header_text())
    command = [
        "clang",
        "-O2",
        "-g",
        "-target",
        "bpf",
        "-ffreestanding",
        "-I/usr/include/x86_64-linux-gnu",
        "-c",
        "sample.c",
    ]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "sample.o").read_bytes()


def map_ids(loaded: Programs) -> dict[str, int]:
    return {name: libbpf.info("map", fd).id for name, fd in loaded.maps.items()}


def test_the_programs_share_one_set_of_maps(programs: Programs) -> None:
    """All load, and what a table has is what they see."""
    assert set(programs.programs) == set(OBJECTS)
    assert Tables.of(programs.maps).vpcs.max_entries == SMALL["vpcs"]
    ids = {libbpf.info("prog", program.fd).id for program in programs.programs.values()}
    assert len(ids) == len(OBJECTS)


def test_generic_mode_has_a_program_once_it_is_asked_for(pins: Pins) -> None:
    """It shares the maps and is pinned like the others; a later load that does without removes the pin."""
    with load(CONFIG, max_entries=SMALL, pins=pins) as first:
        assert not (pins.progs / "transit_generic").exists()
        one, two = first.transit, first.transit_generic
        assert two is first.transit_generic
        assert libbpf.info("prog", one.fd).id != libbpf.info("prog", two.fd).id
        assert (pins.progs / "transit_generic").exists()
        descriptors = {one.fd, two.fd, *first.maps.values()}
    assert not first.programs
    assert not [fd for fd in descriptors if Path(f"/proc/self/fd/{fd}").exists()]
    with load(CONFIG, max_entries=SMALL, pins=pins):
        assert not (pins.progs / "transit_generic").exists()


def test_a_new_load_takes_the_pinned_maps(pins: Pins) -> None:
    """The state outlives the loader; the programs are new each time, and pinned in place of the old."""
    with load(CONFIG, max_entries=SMALL, pins=pins) as first:
        Tables.of(first.maps).vpcs.put(7, {"slot": 3})
        ids, program = map_ids(first), libbpf.info("prog", first.agent.fd).id
    with load(CONFIG, max_entries=SMALL, pins=pins) as second:
        assert map_ids(second) == ids
        assert Tables.of(second.maps).vpcs.get(7) == {"slot": 3, "dividers": 0, "flags": 0, "wire_vni": 0}
        fd = libbpf.open_pin(pins.progs / "agent")
        assert fd is not None
        assert libbpf.info("prog", fd).id == libbpf.info("prog", second.agent.fd).id != program
        os.close(fd)
    names = sorted(OBJECTS)
    assert sorted(entry.name for entry in pins.progs.iterdir()) == names


def test_a_pinned_map_of_another_shape_is_a_conflict(pins: Pins) -> None:
    """It says which map, what differs, and what can be done; the pins stay as they were."""
    with load(CONFIG, max_entries=SMALL, pins=pins) as first:
        ids = map_ids(first)
    with pytest.raises(ConflictError, match=r"map vpcs.*max_entries 64, wanted 65.*Start with the sizes"):
        load(CONFIG, max_entries=SMALL | {"vpcs": 65}, pins=pins)
    with load(CONFIG, max_entries=SMALL, pins=pins) as again:
        assert map_ids(again) == ids


def test_sizes_of_unknown_maps_are_refused() -> None:
    """A misspelt name is not passed over."""
    with pytest.raises(InvalidError, match="vpcz"):
        load(CONFIG, max_entries=SMALL | {"vpcz": 1})


def test_a_configuration_of_another_length_is_refused() -> None:
    """It belongs to another version of the programs."""
    with pytest.raises(InvalidError, match=f"{len(CONFIG)} bytes long, not {len(CONFIG) - 1}"):
        load(CONFIG[:-1], max_entries=SMALL)


def test_a_missing_build_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs from a source tree learns the command."""
    monkeypatch.setattr(programs, "OBJECTS", ("nothing",))
    with pytest.raises(MizarError, match=r"dataplane/build\.py"):
        load(CONFIG)


def test_removing_pins_leaves_no_folder() -> None:
    """An instance that is gone is not listed."""
    found = Pins.of(f"test_kernel_{os.getpid()}_gone")
    found.make()
    with load(CONFIG, max_entries=SMALL, pins=found):
        assert found.folder.name in bpffs.instances()
    found.remove()
    assert found.folder.name not in bpffs.instances()
    found.remove()


@needs_clang
def test_the_verifier_is_quoted(tmp_path: Path) -> None:
    """The last lines of its log are in the error."""
    with pytest.raises(InvalidError, match=r"(?s)load the program transit.*invalid access to packet"):
        load(CONFIG, objects={"transit": compiled(REFUSED, tmp_path)})


@needs_clang
def test_what_is_not_an_object_is_refused(tmp_path: Path) -> None:
    """libbpf's own words tell why."""
    with pytest.raises(InvalidError, match="open the object transit"):
        load(CONFIG, objects={"transit": b"no ELF"})


@needs_clang
def test_the_configuration_is_constant_in_the_program(tmp_path: Path) -> None:
    """It is there at the first packet."""
    config = layout.struct("droplet_config", ifindex=2)
    with load(config, objects={"transit": compiled(XDP_SAMPLE, tmp_path)}) as loaded:
        assert run_xdp(loaded.transit.fd, bytes(64)).retval == 2


@needs_clang
def test_an_xdp_run_has_metadata_and_an_ingress(tmp_path: Path) -> None:
    """Metadata goes in and comes out in front of the frame, which may grow; the ingress is the one asked for."""
    frame = bytes(range(64))
    with load(CONFIG, objects={"transit": compiled(XDP_SAMPLE, tmp_path)}) as loaded:
        run = run_xdp(loaded.transit.fd, frame, metadata=b"\x05\0\0\0", ingress_ifindex=1)
    assert run.retval == 1
    assert run.frame[-64:] == frame
    assert len(run.frame) == 68


@needs_clang
def test_a_tc_run_has_an_interface_and_a_mark(tmp_path: Path) -> None:
    """The context goes in and comes out."""
    with load(CONFIG, objects={"agent": compiled(TC_SAMPLE, tmp_path)}) as loaded:
        run = run_tc(loaded.agent.fd, bytes(64), ifindex=1, mark=41)
        assert (run.retval, run.mark, run.frame) == (1, 42, bytes(64))
        assert run_tc(loaded.agent.fd, bytes(64), repeat=1000).duration_ns < 100_000


@needs_clang
def test_logs_of_threads_do_not_mix(tmp_path: Path) -> None:
    """Two refusals at once: each error quotes its own log."""
    bad, good = compiled(REFUSED, tmp_path), compiled(XDP_SAMPLE, tmp_path)
    errors: list[str] = []

    def work(data: bytes) -> None:
        for _ in range(5):
            try:
                load(CONFIG, objects={"transit": data}).close()
            except InvalidError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=work, args=(data,)) for data in (bad, good, bad, good)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 10
    assert all(error.count("invalid access to packet") == 1 for error in errors)
