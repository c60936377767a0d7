# SPDX-License-Identifier: Apache-2.0
"""The part of a plan that is about eswitches: which device, its mode, functions and representors. Pure.

Called by plan. Where no device fits, the steps are still planned, for the handle that the description names or for
its name, so that they can be read; the refusal says why they are not done.
"""

from __future__ import annotations

from mizar.kernel.topology_facts import HOST, Device
from mizar.topology.description import EswitchSpec
from mizar.topology.present import Plan, Present, foreign, ours
from mizar.topology.steps import Key, NameRepresentor, PlaceFunction, SetFunctions, Step, SwitchMode
from mizar.topology.wishes import EswitchWish, Wishes

SWITCHDEV = "switchdev"


def keys(wishes: Wishes) -> set[Key]:
    """Interfaces of functions and representors that are wanted."""
    functions = [function for wish in wishes.eswitches for function in wish.spec.functions]
    return {(f.namespace or HOST, f.interface) for f in functions} | {(HOST, f.representor) for f in functions}


def plan_eswitches(wishes: Wishes, present: Present, found: Plan) -> None:
    """Adds what the eswitches need."""
    for wish in wishes.eswitches:
        spec, count = wish.spec, len(wish.spec.functions)
        device, reason = chosen(spec, present)
        handle = spec.device or spec.name
        mode, functions = "", 0
        if device is None:
            found.refusals.append(f"{wish.object}: {reason}")
        else:
            handle, mode, functions = device.handle, device.mode, device.functions
            if device.limit < count:
                found.refusals.append(f"{wish.object}: {handle} can have {device.limit} functions, wanted are {count}")
            if functions and not _all_ours(device, wishes, present):
                found.conflicts.append(f"{handle} has {functions} functions that {wishes.topology} did not turn on")
        if mode != SWITCHDEV:
            found.steps.append(SwitchMode(wish.object, handle, mode, SWITCHDEV))
        if functions != count:
            found.steps.append(SetFunctions(wish.object, handle, functions, count))
        _functions(wish, handle, functions != count, wishes, present, found)


def removals(wishes: Wishes, present: Present) -> list[Step]:
    """Turns off the functions that the topology turned on; their interfaces end with them, wherever they are."""
    return [
        SetFunctions("eswitch", device.handle, device.functions, 0)
        for device in present.devices
        if device.functions and _all_ours(device, wishes, present)
    ]


def chosen(spec: EswitchSpec, present: Present) -> tuple[Device | None, str]:
    """The device that a description means, else why there is none."""
    if not present.devices:
        return None, present.no_devices or "devlink knows no device on this host"
    if spec.device is not None:
        named = [device for device in present.devices if device.handle == spec.device]
        if not named:
            return None, f"devlink knows no {spec.device}, only {', '.join(d.handle for d in present.devices)}"
    else:
        named = [device for device in present.devices if device.mode and device.limit]
        if len(named) > 1:
            return None, f"say which device: {', '.join(device.handle for device in named)}"
        if not named:
            return None, "no device that devlink knows has an eswitch and virtual functions"
    if not named[0].mode:
        return None, f"{spec.device} has no eswitch"
    return named[0], ""


def _functions(wish: EswitchWish, handle: str, anew: bool, wishes: Wishes, present: Present, found: Plan) -> None:
    for number, function in enumerate(wish.spec.functions):
        subject = f"function {function.name}"
        for key, step in (
            (
                (HOST, function.representor),
                NameRepresentor(f"representor {function.name}", handle, number, function.representor),
            ),
            (
                (function.namespace or HOST, function.interface),
                PlaceFunction(subject, handle, number, function.interface, function.namespace or HOST),
            ),
        ):
            there = present.links.get(key)
            if there is not None and not ours(there, wishes.topology):
                found.conflicts.append(foreign(there, wishes.topology))
            elif anew or there is None or not there.link.up:
                found.steps.append(step)


def _all_ours(device: Device, wishes: Wishes, present: Present) -> bool:
    """Whether each representor of the device carries the topology's mark."""
    names = [port.interface for port in device.ports if port.flavour == "vf"]
    there = [present.links.get((HOST, name)) for name in names]
    return bool(there) and all(
        item is not None and item.mark is not None and item.mark.topology == wishes.topology for item in there
    )
