# SPDX-License-Identifier: Apache-2.0
"""The kernel room: the only one that touches bpf, netlink, interfaces and network namespaces.

Called by the transit daemon, the lab, `mizar doctor` and tests. It knows the model's errors and the contracts,
nothing above. Everything here is synchronous and short (micro- to a few milliseconds), safe from any thread, and
acts in the network namespace of the calling thread unless it is given another; what waits is an async iterator.
No command is ever run. Module by module:

layout         struct(name, **fields) -> bytes, parse(name, data) -> Fields; sizes and constants of dataplane.h
libbpf         the bindings, and errors with what libbpf logged
programs       load(config, ...) -> Programs: .agent .transit .deliver (.fd), .maps (name -> fd); pinned or not
builds         what a pinned program was made from, behind programs
test_run       run_xdp(fd, frame, ...), run_tc(fd, frame, ...) -> TestRun(retval, frame, metadata, duration_ns)
tables         Tables.of(programs.maps): every map of a droplet with its types
maps           Table (get put delete items put_many delete_many), CounterTable (get items zero)
events         EventReader(fd): drops as they happen
bpffs          Pins.of(instance): the folders of maps, progs and links; ensure_mounted()
attach         attach_xdp, attach_tc(fd, ifindex, pin, force=...) -> Attachment; detach_xdp, detach_tc; attached(pin)
clsact         the fallback behind attach_tc
namespaces     Namespace.by_name, by_path, by_pid, .run(callable); create, remove, anonymous, scratch
netlink        the socket behind the following
interfaces     facts, addresses, GRO and checksum offload, watch()
endpoint_link  EndpointLink (the wish), OwnedLink (what an alias tells)
links          Links(): ensure_endpoint, delete, owned
host_forwarding  allow(), release(): the droplet forwards for NAT gateways and tunnels alone
workload       the inner end of a link, behind links
neighbours     Neighbours(): next_hop, install, read, remove, watch
features       probe() -> list[Feature]
"""
