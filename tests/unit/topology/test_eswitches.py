# SPDX-License-Identifier: Apache-2.0
"""Eswitches on a host of values: chosen, refused with the reason, never taken from others."""

from __future__ import annotations

import pytest

from mizar.kernel.topology_facts import Device, EswitchPort, Link, Mark
from mizar.topology.compare import State, compare
from mizar.topology.plan import plan, plan_removal
from mizar.topology.steps import SetFunctions
from mizar.topology.wishes import wishes
from tests.unit.topology.world import HEAD, World, described

TEXT = (
    HEAD
    + """
  namespaces: [{name: n}]
  eswitches:
    - name: e
      functions:
        - {name: user, interface: user, representor: user-rep}
        - {name: kernel, interface: kernel, representor: kernel-rep, namespace: n}
"""
)
NIC = Device("pci/0000:03:00.0", "legacy", 0, 8)
WISHES = wishes(described(TEXT))


def world(*devices: Device) -> World:
    made = World(devices=devices, no_devices="" if devices else "this kernel has no devlink")
    made.namespaces["n"] = Mark("gw", "namespace")
    return made


def running() -> World:
    """The topology, made: both functions on, with interfaces and marks."""
    ports = (EswitchPort("physical", "eth0", 0), EswitchPort("vf", "user-rep", 0), EswitchPort("vf", "kernel-rep", 1))
    made = world(Device(NIC.handle, "switchdev", 2, 8, ports))
    for name in ("user", "kernel"):
        made.put(Link("", f"{name}-rep", ""), Mark("gw", f"representor {name}"))
    made.put(Link("", "user", ""), Mark("gw", "function user"))
    made.put(Link("n", "kernel", ""), Mark("gw", "function kernel"))
    return made


def test_the_steps_are_in_the_order_that_a_nic_needs() -> None:
    """Mode, functions, then names and places; nothing when it is so."""
    assert [str(step) for step in plan(WISHES, world(NIC).present()).steps] == [
        "put pci/0000:03:00.0 into switchdev mode",
        "set the virtual functions of pci/0000:03:00.0: 0 -> 2",
        "name the representor of virtual function 0 of pci/0000:03:00.0 user-rep",
        "put virtual function 0 of pci/0000:03:00.0 as user",
        "name the representor of virtual function 1 of pci/0000:03:00.0 kernel-rep",
        "put virtual function 1 of pci/0000:03:00.0 as kernel in n",
    ]
    found = plan(WISHES, running().present())
    assert (found.steps, found.conflicts, found.refusals) == ([], [], [])
    assert {row.state for row in compare(WISHES, running().present())} == {State.AS_WANTED}


def test_without_devlink_the_plan_can_be_read_and_is_refused() -> None:
    """With the reason."""
    found = plan(WISHES, world().present())
    assert found.refusals == ["eswitch e: this kernel has no devlink"]
    assert "put e into switchdev mode" in map(str, found.steps)


@pytest.mark.parametrize(
    ("text", "devices", "reason"),
    [
        (TEXT, (Device("netdevsim/x", "", 0, 0),), "no device that devlink knows has an eswitch"),
        (TEXT, (NIC, Device("pci/0000:04:00.0", "legacy", 0, 8)), "say which device"),
        (TEXT, (Device(NIC.handle, "legacy", 0, 1),), "can have 1 functions, wanted are 2"),
        (TEXT.replace("name: e\n", "name: e\n      device: pci/0:5\n"), (NIC,), "devlink knows no pci/0:5"),
        (
            TEXT.replace("name: e\n", "name: e\n      device: pci/0:5\n"),
            (Device("pci/0:5", "", 0, 8),),
            "pci/0:5 has no eswitch",
        ),
    ],
)
def test_a_device_that_cannot_is_refused(text: str, devices: tuple[Device, ...], reason: str) -> None:
    """With the reason."""
    assert reason in plan(wishes(described(text)), world(*devices).present()).refusals[0]


def test_functions_of_others_are_a_conflict() -> None:
    """Changing their number would take them away first; removal leaves them on."""
    used = world(Device(NIC.handle, "switchdev", 2, 8, (EswitchPort("vf", "eth4", 0), EswitchPort("vf", "eth5", 1))))
    assert "2 functions that gw did not turn on" in plan(WISHES, used.present()).conflicts[0]
    assert not [step for step in plan_removal(WISHES, used.present()).steps if isinstance(step, SetFunctions)]


def test_removal_turns_its_functions_off() -> None:
    """Their interfaces and representors end with them."""
    steps = plan_removal(WISHES, running().present()).steps
    assert steps[0] == SetFunctions("eswitch", NIC.handle, 2, 0)
    assert [str(step) for step in steps[1:]] == ["remove namespace n"]
