# SPDX-License-Identifier: Apache-2.0
"""The XDP program (dataplane/xsk.c) that leads frames of an interface to AF_XDP sockets, one for each queue.

Attached for as long as it is held: it goes with the process. Called by functions in user space, on interfaces of their
own namespace. It must never displace a program that somebody else attached.
"""

from __future__ import annotations

import errno
import os
import socket
from types import TracebackType

from mizar.kernel import attach, libbpf
from mizar.kernel.attach import XdpMode
from mizar.kernel.layout import U32, struct_codec
from mizar.kernel.libbpf import lib
from mizar.kernel.namespaces import Namespace
from mizar.kernel.programs import Programs, load, object_bytes
from mizar.kernel.xsk import XskSocket
from mizar.model.errors import ConflictError, InvalidError, MizarError


class Redirect:
    """The program at work on an interface. `mode`: in which it runs."""

    mode: XdpMode

    def __init__(
        self,
        interface: str,
        *,
        everything: bool = False,
        force: XdpMode | None = None,
        namespace: Namespace | None = None,
    ) -> None:
        """On an interface of `namespace`, or of the calling thread's. `everything`: all frames go to the sockets, not
        tunnel packets alone. Tries driver mode, then generic; `force` allows one mode only.

        Raises NotFoundError when there is no such interface, ConflictError when another program has it.
        """
        self.interface = interface
        self._link = -1
        self._programs = Programs()
        config = struct_codec("xsk_config").pack({"everything": int(everything)})
        modes: tuple[XdpMode, ...] = ("driver", "generic") if force is None else (force,)

        def work() -> None:
            try:
                ifindex = socket.if_nametoindex(interface)
            except OSError as error:
                raise libbpf.error_of(error.errno or errno.ENODEV, f"find the interface {interface}") from error
            for mode in modes:
                try:
                    self._attach(ifindex, mode, config)
                except ConflictError as error:
                    raise ConflictError(f"{error}; another XDP program has the interface {interface}") from error
                except MizarError:
                    if mode == modes[-1]:
                        raise
                else:
                    self.mode = mode
                    return

        try:
            if namespace is None:
                work()
            else:
                namespace.run(work)
        except BaseException:
            self.close()
            raise

    def _attach(self, ifindex: int, mode: XdpMode, config: bytes) -> None:
        """In generic mode without support for frames of several buffers: mizar/kernel/programs.py says why."""
        name = "xsk" if mode == "driver" else "xsk_generic"
        self._programs.close()
        self._programs = load(config, objects={name: object_bytes("xsk")})
        self._link = attach.create_link(self._programs.programs[name].fd, ifindex, mode)

    def add(self, sock: XskSocket) -> None:
        """From now on the frames of its queue go to this socket. It must be open, and on the same interface."""
        what = f"lead queue {sock.queue} of {self.interface} to its socket"
        sockets, fd = self._sockets(), sock.fileno()
        if fd < 0:
            raise InvalidError(f"{what}: the socket is closed")
        libbpf.check(lib().bpf_map_update_elem(sockets, U32.pack(sock.queue), U32.pack(fd), 0), what)

    def remove(self, queue: int) -> None:
        """From now on the frames of a queue go to the namespace's own stack; so they do when its socket is closed."""
        result = lib().bpf_map_delete_elem(self._sockets(), U32.pack(queue))
        libbpf.check(result, f"take the socket of queue {queue} of {self.interface} away")

    def close(self) -> None:
        """Takes the program away. May be called twice."""
        if self._link >= 0:
            os.close(self._link)
            self._link = -1
        self._programs.close()

    def _sockets(self) -> int:
        if self._link < 0:
            raise InvalidError(f"the redirect of {self.interface} is closed")
        return self._programs.maps["sockets"]

    def __enter__(self) -> Redirect:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
