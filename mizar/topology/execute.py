# SPDX-License-Identifier: Apache-2.0
"""Does the steps of a plan, one by one; when one fails, undoes those before it, backwards.

Called by host. It must never do anything that no step says, nor decide anything: that is plan's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from mizar.kernel import devlink
from mizar.kernel.topology_facts import GROUP, HOST, Link, Mark
from mizar.kernel.topology_links import TopologyLinks
from mizar.model.errors import MizarError, NotFoundError, Problem
from mizar.topology.plan import differences
from mizar.topology.steps import (
    GivePort,
    MakeLink,
    MakeNamespace,
    MarkLink,
    NameRepresentor,
    PlaceFunction,
    RemoveLink,
    RemoveNamespace,
    SetFunctions,
    SetLink,
    Step,
    SwitchMode,
    TakePort,
    mark_of,
)

Done = Callable[[Step], None]


class Execution:
    """Steps on one host for one topology."""

    def __init__(self, links: TopologyLinks, topology: str) -> None:
        self._links = links
        self._topology = topology

    def run(self, steps: Sequence[Step], done: Done = lambda _: None) -> None:
        """Does them in their order and tells of each. When one fails, those before it are undone and the error is of
        the same kind, with what failed and with what could not be undone."""
        finished: list[Step] = []
        for step in steps:
            try:
                self.do(step)
            except MizarError as error:
                problems = [replace(problem, resource=step.object) for problem in error.problems]
                problems += [*self._restore(step), *self._undo(finished)]
                raise type(error)(problems) from error
            finished.append(step)
            done(step)

    def do(self, step: Step) -> None:
        """One step, whole or not at all."""
        mark, links = mark_of(self._topology, step), self._links
        match step:
            case MakeNamespace():
                links.make_namespace(step.name, Mark(self._topology, "namespace"))
            case RemoveNamespace():
                links.remove_namespace(step.name)
            case MakeLink():
                self._make(step.links, mark)
            case RemoveLink():
                with contextlib.suppress(NotFoundError):  # the other end was removed before it, and took it along
                    links.remove(step.links[0].key)
            case SetLink():
                links.settle(step.before, step.after, [step.field])
            case MarkLink():
                links.mark(step.key, GROUP, str(mark))
            case TakePort():
                self._take(step.interface, step.namespace, mark)
            case GivePort():
                links.mark((step.namespace, step.interface), 0, "")
                links.move((step.namespace, step.interface), HOST)
            case SwitchMode():
                with devlink.Devlink() as conversation:
                    conversation.switch(step.handle, step.after)
            case SetFunctions():
                devlink.set_functions(step.handle, step.after)
            case NameRepresentor():
                self._name(_representor(step.handle, step.number), step.name, mark)
            case PlaceFunction():
                name = devlink.function_interface(step.handle, step.number)
                self._name(name, step.name, mark)
                if step.namespace != HOST:
                    links.move((HOST, step.name), step.namespace)
                    _raise(links, (step.namespace, step.name))

    def _restore(self, step: Step) -> list[Problem]:
        """Undoes what a step did before it failed: several VNIs or addresses are one step here, not for the kernel."""
        if not isinstance(step, SetLink):
            return []
        try:
            self._links.settle(self._links.find(step.before.key), step.before, [step.field])
        except MizarError as error:
            return [Problem(f"could not be undone ({step}): {error}", resource=step.object)]
        return []

    def _undo(self, finished: Sequence[Step]) -> list[Problem]:
        """Undoes steps backwards; returns what failed, after which the rest is still tried."""
        stands: list[Problem] = []
        undone = 0
        for step in reversed(finished):
            try:
                self.undo(step)
                undone += 1
            except MizarError as error:
                stands.append(Problem(f"could not be undone ({step}): {error}", resource=step.object))
        if not stands:
            stands.append(Problem(f"{undone} steps before it were undone: the host is as it was"))
        return stands

    def undo(self, step: Step) -> None:
        """The opposite of a step that was done."""
        links = self._links
        match step:
            case MakeNamespace():
                links.remove_namespace(step.name)
            case RemoveNamespace():
                links.make_namespace(step.name, Mark(self._topology, "namespace"))
            case MakeLink():
                links.remove(step.links[0].key)
            case RemoveLink():
                if step.links[0].kind == "veth" and len(step.links) == 1:
                    raise NotFoundError("the other end was in no namespace with a name")
                self._make(step.links, mark_of(self._topology, step))
            case SetLink():
                links.settle(step.after, step.before, [step.field])
            case MarkLink():
                links.mark(step.key, step.group, step.alias)
            case TakePort():
                self.do(GivePort(step.object, step.interface, step.namespace))
            case GivePort():
                self._take(step.interface, step.namespace, mark_of(self._topology, step))
            case SwitchMode():
                if step.before:
                    self.do(replace(step, before=step.after, after=step.before))
            case SetFunctions():
                self.do(replace(step, before=step.after, after=step.before))
            case NameRepresentor() | PlaceFunction():
                pass  # ends with its function

    def _make(self, wanted: Sequence[Link], mark: Mark) -> None:
        if wanted[0].kind == "veth":
            self._links.make_veth(wanted[0], wanted[1], mark)
        else:
            self._links.make(wanted[0], mark)
        try:
            for link in wanted:
                new = Link(link.namespace, link.name, link.kind, up=False, vlan_filtering=link.vlan_filtering)
                self._links.settle(new, link, differences(new, link))
        except BaseException:
            self._links.remove(wanted[0].key)
            raise

    def _take(self, interface: str, namespace: str, mark: Mark) -> None:
        self._links.mark((HOST, interface), GROUP, str(mark))
        try:
            self._links.move((HOST, interface), namespace)
        except BaseException:
            self._links.mark((HOST, interface), 0, "")
            raise
        _raise(self._links, (namespace, interface))

    def _name(self, interface: str, name: str, mark: Mark) -> None:
        if interface != name:
            self._links.rename((HOST, interface), name)
        self._links.mark((HOST, name), GROUP, str(mark))
        _raise(self._links, (HOST, name))


def _raise(links: TopologyLinks, key: tuple[str, str]) -> None:
    down = Link(key[0], key[1], "", up=False)
    links.settle(down, replace(down, up=True), ["up"])


def _representor(handle: str, number: int) -> str:
    with devlink.Devlink() as conversation:
        devices = [device for device in conversation.devices() if device.handle == handle]
    for device in devices:
        for port in device.ports:
            if port.flavour == "vf" and port.function == number and port.interface:
                return port.interface
    raise NotFoundError(f"virtual function {number} of {handle} has no representor")
