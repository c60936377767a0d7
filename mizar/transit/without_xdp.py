# SPDX-License-Identifier: Apache-2.0
"""What a droplet cannot do whose Transit runs at tc ingress alone (`--xdp off`), and who is told so.

Called at the daemon's start, and where a function or an endpoint would be such. It must never let a droplet run
without a function that it was told to run.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from mizar._built import transit_pb2 as pb
from mizar.kernel import features
from mizar.kernel.functions import HOOKS
from mizar.kernel.tables import Tables
from mizar.model.errors import ConflictError, MizarError
from mizar.transit.function_values import Function, parse
from mizar.transit.options import Options
from mizar.transit.values import EndpointFlag, Wanted

MODE = "off"
_INSTEAD = "run the daemon with --xdp driver or --xdp generic"


def refuse_functions(functions: Iterable[Function]) -> None:
    """Raises ConflictError where one of them runs in XDP."""
    for one in functions:
        stages = [stage for stage in one.stages if "xdp" in HOOKS[stage]]
        if stages:
            raise ConflictError(
                f"function {one.name} runs in XDP (stage {', '.join(stages)}), and this droplet has none (--xdp off): "
                f"{_INSTEAD}, or choose other droplets for it"
            )


def refuse_endpoint(wanted: Wanted) -> None:
    """Raises ConflictError where an endpoint takes tunnel packets as they are."""
    if wanted.bypass:
        raise ConflictError(
            "an endpoint that bypasses decapsulation takes single packets, and Transit at tc ingress (--xdp off) "
            f"brings superpackets: {_INSTEAD}, or choose another droplet for it"
        )


def refuse_kernel() -> None:
    """Raises MizarError where the kernel takes off no headers in front of packets of the other family."""
    try:
        features.change_families()
    except MizarError as error:
        raise MizarError(
            f"this kernel is too old for --xdp off ({error}): use kernel 6.3 or later, or {_INSTEAD}"
        ) from error


def refuse_leftovers(options: Options, tables: Tables) -> None:
    """Raises ConflictError where the daemon before had what this one cannot have."""
    try:
        told = pb.Functions.FromString(options.functions_file.read_bytes())
        refuse_functions(parse(one.function, one.number) for one in told.functions)
    except FileNotFoundError:
        pass
    except (OSError, DecodeError) as error:
        raise MizarError(f"{options.functions_file} cannot be read: {error}") from error
    if options.ddos_file.exists():
        raise ConflictError(f"the droplet has protections against floods, which run in XDP: {_INSTEAD}, or delete them")
    for _, agent in tables.agents.items():
        for name in ("addr4", "addr6"):
            found = tables.endpoints.get({"vni": agent["vni"], "addr": agent[name]})
            if found and found["ifindex"] and found["flags"] & EndpointFlag.BYPASS:
                raise ConflictError(f"an endpoint here bypasses decapsulation: {_INSTEAD}, or detach it first")
