# SPDX-License-Identifier: Apache-2.0
"""NICs with an embedded switch, found and changed through devlink and sysfs.

Called by mizar.topology. Knows what a topology asks for: which devices there are, their eswitch's mode, their ports
(physical ones and representors), and the virtual functions of a PCI device. It must never guess from a driver's name.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

from pyroute2.netlink import ctrlmsg
from pyroute2.netlink.devlink import devlinkcmd

from mizar.kernel import libbpf
from mizar.kernel.topology_facts import Device, EswitchPort
from mizar.model.errors import InvalidError, MizarError, NotFoundError

_GENERIC, _CTRL_ID, _GETFAMILY = 16, 16, 3  # NETLINK_GENERIC, GENL_ID_CTRL, CTRL_CMD_GETFAMILY
_GET, _PORT_GET, _ESWITCH_GET, _ESWITCH_SET = 1, 5, 29, 30  # DEVLINK_CMD_*
_REQUEST, _ACK, _DUMP = 0x001, 0x004, 0x300
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ERROR, _DONE = 2, 3
_MODES = {0: "legacy", 1: "switchdev"}
_FLAVOURS = {0: "physical", 3: "pf", 4: "vf", 7: "sf"}  # DEVLINK_PORT_FLAVOUR_*
_SYSFS = Path("/sys/bus")


class Devlink:
    """A conversation with devlink. Raises NotFoundError where the kernel has none."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _GENERIC)
        self._socket.bind((0, 0))
        self._sequence = 0
        try:
            question = ctrlmsg()
            question["cmd"], question["version"] = _GETFAMILY, 1
            question["attrs"] = [("CTRL_ATTR_FAMILY_NAME", "devlink")]
            answers = self._ask(question, _CTRL_ID, 0, "find devlink", ctrlmsg)
            self._family = answers[0].get_attr("CTRL_ATTR_FAMILY_ID")
        except NotFoundError as error:
            self.close()
            raise NotFoundError("this kernel has no devlink (CONFIG_NET_DEVLINK, CONFIG_NET_SWITCHDEV)") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def __enter__(self) -> Devlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def devices(self) -> list[Device]:
        """Every device, sorted by its handle."""
        ports: dict[str, list[EswitchPort]] = {}
        for answer in self._devlink(_PORT_GET, "", "list the ports of eswitches", dump=True):
            ports.setdefault(_handle(answer), []).append(_port(answer))
        handles = sorted(_handle(answer) for answer in self._devlink(_GET, "", "list the devlink devices", dump=True))
        return [
            Device(handle, self._mode(handle), functions(handle), _limit(handle), tuple(ports.get(handle, ())))
            for handle in handles
        ]

    def switch(self, handle: str, mode: str) -> None:
        """Puts the eswitch of a device into a mode: legacy or switchdev."""
        number = next(number for number, name in _MODES.items() if name == mode)
        self._devlink(_ESWITCH_SET, handle, f"put {handle} into {mode} mode", mode=number)

    def _mode(self, handle: str) -> str:
        try:
            answers = self._devlink(_ESWITCH_GET, handle, f"read the mode of {handle}")
        except MizarError:  # EOPNOTSUPP, or what a driver without an eswitch says instead
            return ""
        return _MODES.get(answers[0].get_attr("DEVLINK_ATTR_ESWITCH_MODE"), "")

    def _devlink(
        self, command: int, handle: str, what: str, *, dump: bool = False, mode: int | None = None
    ) -> list[Any]:
        message = devlinkcmd()
        message["cmd"], message["version"], message["attrs"] = command, 1, []
        if handle:
            bus, _, name = handle.partition("/")
            message["attrs"] += [("DEVLINK_ATTR_BUS_NAME", bus), ("DEVLINK_ATTR_DEV_NAME", name)]
        if mode is not None:
            message["attrs"].append(("DEVLINK_ATTR_ESWITCH_MODE", mode))
        flags = _DUMP if dump else _ACK
        return self._ask(message, self._family, flags, what, devlinkcmd)

    def _ask(self, message: Any, kind: int, flags: int, what: str, form: Any) -> list[Any]:
        self._sequence += 1
        message["header"].update(type=kind, flags=_REQUEST | flags, sequence_number=self._sequence, pid=0)
        message.reset()
        message.encode()
        self._socket.send(bytes(message.data))
        found: list[Any] = []
        while True:
            data, at = self._socket.recv(1 << 18), 0
            while at + _HEADER.size <= len(data):
                length, part_kind, _, _, _ = _HEADER.unpack_from(data, at)
                if part_kind in (_ERROR, _DONE):
                    number = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
                    if number > 0:
                        raise libbpf.error_of(number, what)
                    return found
                answer = form(data[at : at + length])
                answer.decode()
                found.append(answer)
                at += (length + 3) & ~3
            if not flags:
                return found


def functions(handle: str) -> int:
    """How many virtual functions of a device are on."""
    return _number(_folder(handle) / "sriov_numvfs")


def set_functions(handle: str, count: int) -> None:
    """Turns virtual functions on or off. The kernel changes the number only by way of 0."""
    path = _folder(handle) / "sriov_numvfs"
    try:
        if functions(handle) and count:
            path.write_text("0")
        path.write_text(str(count))
    except OSError as error:
        raise libbpf.error_of(error.errno or 0, f"turn on {count} virtual functions of {handle}") from error


def function_interface(handle: str, number: int) -> str:
    """The interface of a virtual function in the host's namespace. Raises NotFoundError when it has none there."""
    folder = _folder(handle) / f"virtfn{number}" / "net"
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if not names:
        raise NotFoundError(f"virtual function {number} of {handle} has no interface here: no driver took it")
    return names[0]


def _folder(handle: str) -> Path:
    bus, slash, name = handle.partition("/")
    if not slash or "/" in name or ".." in (bus, name):
        raise InvalidError(f"{handle!r} is no devlink handle, such as pci/0000:03:00.0")
    return _SYSFS / bus / "devices" / name


def _limit(handle: str) -> int:
    return _number(_folder(handle) / "sriov_totalvfs")


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _handle(message: Any) -> str:
    return f"{message.get_attr('DEVLINK_ATTR_BUS_NAME')}/{message.get_attr('DEVLINK_ATTR_DEV_NAME')}"


def _port(message: Any) -> EswitchPort:
    return EswitchPort(
        flavour=_FLAVOURS.get(message.get_attr("DEVLINK_ATTR_PORT_FLAVOUR"), ""),
        interface=message.get_attr("DEVLINK_ATTR_PORT_NETDEV_NAME") or "",
        function=message.get_attr("DEVLINK_ATTR_PORT_PCI_VF_NUMBER") or 0,
    )
