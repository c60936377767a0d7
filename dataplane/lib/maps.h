/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the maps and the configuration that all programs of a droplet share. Every object file declares all of them; the
 * loader makes each once, pins it by its name, and gives the same map to every object. The sizes are defaults that the
 * loader may change. Keys, values and meanings: contracts/dataplane.h. The daemon writes them; programs only read,
 * except for the counters, the rings, event_limits, the stamps in values, and flows with their counts.
 */
#ifndef MIZAR_MAPS_H
#define MIZAR_MAPS_H
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "layout.h"
#include "drop_reasons.h"

#define MAP(map_type, map_name, key_type, value_type, entries, flags)                                                   \
	struct {                                                                                                       \
		__uint(type, map_type);                                                                                \
		__uint(max_entries, entries);                                                                          \
		__uint(map_flags, flags);                                                                              \
		__type(key, key_type);                                                                                 \
		__type(value, value_type);                                                                             \
	} map_name SEC(".maps")

MAP(BPF_MAP_TYPE_HASH, endpoints, struct endpoint_key, struct endpoint, 1048576, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, endpoint_versions, uint32_t, uint32_t, ENDPOINT_VERSIONS, 0);
MAP(BPF_MAP_TYPE_ARRAY, agent_versions, uint32_t, uint32_t, AGENT_VERSIONS, 0);
MAP(BPF_MAP_TYPE_LPM_TRIE, networks, struct network_key, struct network, 65536, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_LPM_TRIE, routes, struct route_key, struct network_route, 65536, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, substrate_link, uint32_t, uint32_t, 1, 0);
MAP(BPF_MAP_TYPE_HASH, substrate_endpoints, struct droplet_key, uint32_t, 16384, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, vpcs, uint32_t, struct vpc, 65536, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, identities, struct identity_key, uint32_t, 65536, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, hop_sets, uint32_t, struct hop_set, 131072, 0);
MAP(BPF_MAP_TYPE_ARRAY, droplets, uint32_t, struct droplet, 131072, 0);
MAP(BPF_MAP_TYPE_HASH, droplet_slots, struct droplet_key, struct known_sender, 131072, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, agents, uint32_t, struct agent, 16384, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, agent_options, uint32_t, struct agent_options, 16384, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, group_sets, struct group_set_key, struct group_set, 65536, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, services, uint32_t, struct service, 512, 0);
MAP(BPF_MAP_TYPE_ARRAY, members, uint32_t, struct endpoint, 16384, 0);
MAP(BPF_MAP_TYPE_HASH, member_slots, struct member_key, uint32_t, 16384, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, listeners, struct listener_key, struct listener, 16384, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, public_addresses, struct droplet_key, struct public_address, 1024, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, public_version, uint32_t, uint32_t, 1, 0);
MAP(BPF_MAP_TYPE_LPM_TRIE, public_inside, struct route_key, uint32_t, 16384, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, public_switch, uint32_t, uint32_t, 1, 0);
MAP(BPF_MAP_TYPE_ARRAY, service_notes, uint32_t, struct service_note, 512, 0);
MAP(BPF_MAP_TYPE_ARRAY, member_notes, uint32_t, struct member_note, 16384, 0);
MAP(BPF_MAP_TYPE_HASH, flows, struct flow_key, struct flow, 262144, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, flow_budgets, uint32_t, struct flow_budget, 65536, 0);
MAP(BPF_MAP_TYPE_ARRAY, flow_counts, uint32_t, struct flow_count, 65536, 0);
MAP(BPF_MAP_TYPE_ARRAY, endpoint_policies, uint32_t, struct endpoint_policy, 16384, 0);
MAP(BPF_MAP_TYPE_HASH, policy_sets, uint32_t, struct policy_set, 4096, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_LPM_TRIE, policy_peers, struct policy_peer_key, uint32_t, 1048576, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, policy_groups, struct policy_group_key, uint32_t, 262144, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_LPM_TRIE, policy_verdicts, struct policy_verdict_key, struct policy_verdict, 1048576, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, policy_flows, struct policy_flow_key, struct policy_flow, 1048576, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, policy_budgets, uint32_t, struct flow_budget, 65536, 0);
MAP(BPF_MAP_TYPE_ARRAY, policy_counts, uint32_t, struct flow_count, 65536, 0);
MAP(BPF_MAP_TYPE_ARRAY, endpoint_limits, uint32_t, struct endpoint_limits, 16384, 0);
MAP(BPF_MAP_TYPE_ARRAY, shaper, uint32_t, uint32_t, 1, 0);
MAP(BPF_MAP_TYPE_ARRAY, limiters, uint32_t, struct limiter, 32768, 0);
MAP(BPF_MAP_TYPE_ARRAY, limiter_states, uint32_t, struct limiter_state, 32768, 0);
MAP(BPF_MAP_TYPE_LPM_TRIE, network_acls, struct network_key, struct network_acl, 65536, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, acl_vpcs, uint32_t, uint32_t, 65536, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, endpoint_counters, uint32_t, struct endpoint_counters, 16384, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, vpc_counters, uint32_t, struct vpc_counters, 65536, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, public_counters, uint32_t, struct public_counters, 1024, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, drop_counters, uint32_t, struct drop_counter, EVENT_REASONS, 0);
MAP(BPF_MAP_TYPE_PROG_ARRAY, stages, uint32_t, uint32_t, STAGES, 0);
MAP(BPF_MAP_TYPE_ARRAY, proxies, uint32_t, struct proxy, 64, 0);
MAP(BPF_MAP_TYPE_HASH, proxy_flows, struct proxy_flow_key, struct proxy_flow, 1048576, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, proxy_usage, uint32_t, struct proxy_usage, 64, 0);
MAP(BPF_MAP_TYPE_ARRAY, proxy_ended, uint32_t, uint32_t, 64, 0);
/* The data plane's own: the newest flows of each proxy, FLOW_EMBRYOS places for each. */
MAP(BPF_MAP_TYPE_ARRAY, proxy_embryos, uint32_t, struct proxy_flow_key, 64 * FLOW_EMBRYOS, 0);
MAP(BPF_MAP_TYPE_ARRAY, droplet_switches, uint32_t, struct droplet_switches, 1, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, event_limits, uint32_t, struct event_limit, EVENT_SHARES * EVENT_REASONS, 0);

/* When this CPU last wrote a notice of an unknown destination, by VPC and flow: see notice.h. */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, notice_times, uint32_t, uint64_t, 4096, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} notices SEC(".maps");

_Static_assert((int)REASON_LIMIT <= (int)EVENT_ALLOWED_PLACE, "drop_counters and event_limits hold every reason");

/*
 * Constant once loaded, so that the verifier folds it into the code. Read it as volatile only: through a plain pointer
 * clang folds in the zeros of this definition instead.
 */
const volatile struct droplet_config config SEC(".rodata.config");
#endif
