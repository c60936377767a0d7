/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns nothing but the proof that the compiler lays contracts/dataplane.h out as Python's cffi does: no hidden padding,
 * and every slot and address where 32-bit reads are aligned.
 */
#ifndef MIZAR_LAYOUT_H
#define MIZAR_LAYOUT_H
#include <stddef.h>
#include "dataplane.h"

_Static_assert(sizeof(struct endpoint_key) == 20, "endpoint_key");
_Static_assert(sizeof(struct endpoint) == 32, "endpoint");
_Static_assert(sizeof(struct network_key) == 24, "network_key");
_Static_assert(sizeof(struct network) == 32, "network");
_Static_assert(sizeof(struct network_route) == 20, "network_route");
_Static_assert(sizeof(struct route_key) == 24, "route_key");
_Static_assert(sizeof(struct vpc) == 16, "vpc");
_Static_assert(sizeof(struct identity_key) == 24, "identity_key");
_Static_assert(sizeof(struct hop_set) == 4 * HOPS + 8, "hop_set");
_Static_assert(sizeof(struct droplet) == 28, "droplet");
_Static_assert(sizeof(struct droplet_key) == 16, "droplet_key");
_Static_assert(sizeof(struct known_sender) == 12, "known_sender");
_Static_assert(sizeof(struct agent) == 108, "agent");
_Static_assert(sizeof(struct agent_options) == 4 + OPTION_BYTES, "agent_options");
_Static_assert(sizeof(struct group_set_key) == 8, "group_set_key");
_Static_assert(sizeof(struct group_set) == 4 + 4 * GROUPS, "group_set");
_Static_assert(sizeof(struct endpoint_counters) == 6 * 8, "endpoint_counters");
_Static_assert(sizeof(struct public_counters) == 7 * 8, "public_counters");
_Static_assert(sizeof(struct vpc_counters) == 19 * 8, "vpc_counters");
_Static_assert(sizeof(struct drop_counter) == 2 * 8, "drop_counter");
_Static_assert(sizeof(struct trap) == 8 + TRAP_BYTES, "trap");
_Static_assert(sizeof(struct handover) == 28, "handover: at most 32 bytes of XDP metadata");
_Static_assert(sizeof(struct service) == 4 + 2 * SERVICE_PLACES + 2, "service");
_Static_assert(sizeof(struct listener_key) == 24, "listener_key");
_Static_assert(sizeof(struct listener) == 4, "listener");
_Static_assert(sizeof(struct public_address) == 20, "public_address");
_Static_assert(sizeof(struct member_key) == 12, "member_key");
_Static_assert(sizeof(struct service_note) == 84, "service_note");
_Static_assert(sizeof(struct member_note) == 68, "member_note");
_Static_assert(sizeof(struct flow_key) == 44, "flow_key");
_Static_assert(sizeof(struct flow) == 36, "flow");
_Static_assert(sizeof(struct endpoint_policy) == 36, "endpoint_policy");
_Static_assert(sizeof(struct policy_set) == 16, "policy_set");
_Static_assert(sizeof(struct policy_peer_key) == 24, "policy_peer_key");
_Static_assert(sizeof(struct policy_group_key) == 8, "policy_group_key");
_Static_assert(sizeof(struct policy_verdict_key) == 16, "policy_verdict_key");
_Static_assert(sizeof(struct policy_verdict) == 12, "policy_verdict");
_Static_assert(sizeof(struct policy_flow_key) == 32, "policy_flow_key");
_Static_assert(sizeof(struct policy_flow) == 24, "policy_flow");
_Static_assert(sizeof(struct network_acl) == 24, "network_acl");
_Static_assert(sizeof(struct flow_budget) == 8, "flow_budget");
_Static_assert(sizeof(struct flow_count) == 8, "flow_count");
_Static_assert(sizeof(struct endpoint_limits) == 40, "endpoint_limits");
_Static_assert(sizeof(struct limiter) == 80, "limiter");
_Static_assert(sizeof(struct limiter_state) == 48, "limiter_state");
_Static_assert(sizeof(struct event) == 208, "event");
_Static_assert(sizeof(struct event_limit) == 24, "event_limit");
_Static_assert(sizeof(struct droplet_config) == 68, "droplet_config");
_Static_assert(sizeof(struct trace_report) == 80, "trace_report");
_Static_assert(sizeof(struct notice) == 72, "notice");
_Static_assert(sizeof(struct droplet_switches) == 8, "droplet_switches");
_Static_assert(sizeof(struct proxy) == 24 + 6 * 16, "proxy");
_Static_assert(sizeof(struct proxy_flow_key) == 44, "proxy_flow_key");
_Static_assert(sizeof(struct proxy_flow) == 36, "proxy_flow");
_Static_assert(sizeof(struct proxy_usage) == 16, "proxy_usage");

_Static_assert(offsetof(struct agent, addr4) % 4 == 0, "read as 32-bit words");
_Static_assert(offsetof(struct agent, gateway6) % 4 == 0, "read as 32-bit words");
_Static_assert(offsetof(struct network, gateway) % 4 == 0, "read as 32-bit words");
_Static_assert(offsetof(struct event, src) % 4 == 0, "read as 32-bit words");
_Static_assert((HOPS & (HOPS - 1)) == 0, "a power of two");
#endif
