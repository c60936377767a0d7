# SPDX-License-Identifier: Apache-2.0
"""The device of a tunnel in user space, made for a program that may not make one itself.

Called by mizar.transit.vpn_engines; the device ends with the last descriptor of it. taps makes those of virtual
machines, which stay.
"""

import fcntl
import os
import struct

from mizar.kernel import libbpf

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x1, 0x1000, 0x4000
SIOCSIFMTU = 0x8922
"""The ioctl by which a program sets an MTU (linux/sockios.h)."""


def opened(name: str, bare: bool) -> int:
    """A descriptor of a new device `name` in the namespace of this thread. Raises a MizarError.

    Packets have four bytes of their kind before them, or, where `bare`, the header of virtio_net.
    """
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise libbpf.error_of(error.errno or 0, f"open {_DEVICE}, from which tunnels are made") from error
    try:
        flags = _IFF_TUN | (_IFF_NO_PI | _IFF_VNET_HDR if bare else 0)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        os.close(fd)
        raise libbpf.error_of(error.errno or 0, f"make the tunnel's device {name}") from error
    return fd
