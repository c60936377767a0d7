# SPDX-License-Identifier: Apache-2.0
"""The kernel room: the only one that touches bpf, netlink, interfaces and network namespaces.

Called by the transit daemon, the lab, `mizar doctor` and tests. It knows the model's errors and the contracts,
nothing above. Everything here is synchronous and short (micro- to a few milliseconds), safe from any thread, and
acts in the network namespace of the calling thread unless it is given another; what waits is an async iterator.
No command is ever run. The surface, module by module:

layout      struct(name, **fields) -> bytes; parse(name, data) -> Fields (a dict); size(name); constant(name) -> int;
            struct_codec(name) -> Codec[Fields]; U32: Codec[int]
libbpf      the bindings; `check`, `Log`; the C types of contracts/dataplane.h are in layout, not here
programs    load(config, max_entries=..., pins=Pins | None) -> Programs: .agent .transit .deliver (Program: .fd .name)
            .maps (name -> fd) .close()
test_run    run_xdp(fd, frame, ...), run_tc(fd, frame, ...) -> TestRun(retval, frame, metadata, duration_ns)
tables      Tables.of(programs.maps): .endpoints .networks .vpcs .hop_sets .droplets .droplet_slots .agents
            (Table: get put delete items put_many delete_many), .endpoint_counters .vpc_counters .drop_counters
            (CounterTable: get items zero), .droplet_switches; network_key(...), hop_set_places(...)
maps        Table, CounterTable: the calls behind
events      EventReader(fd): async iterator of Fields; read() without waiting
attach      attach_xdp(fd, ifindex, pin, force=None), attach_tc(fd, ifindex, pin, force=None) -> Attachment;
            detach(hook, ifindex, pin); attached(pin) -> what a pin holds
links       Links(namespace=None): ensure_endpoint(EndpointLink, Namespace), delete, facts, owned, set_gro, ...;
            watch_links() and watch_neighbours(): async iterators
namespaces  Namespace.by_name / by_path / by_pid, create(name), remove(name), run(callable), entered()
neighbours  Neighbours(links): resolve(address) -> NextHop, install, read
bpffs       ensure_mounted(), Pins.of(instance): .maps .progs .links folders, remove
features    probe() -> list[Feature]
"""
