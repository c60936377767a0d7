/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the tables of network functions (contracts/function.h), whom a frame is for, and what a function is told of it. The
 * frame is read as it is now: a stage stands where the pipeline is done with it, or has not begun. Only frames that some
 * function wants are read.
 */
#ifndef MIZAR_FUNCTION_FRAME_H
#define MIZAR_FUNCTION_FRAME_H
#include "function.h"
#include "outer.h"

_Static_assert(sizeof(struct function_frame) == 128, "function_frame");
_Static_assert(sizeof(struct function_switches) == 72, "function_switches");
_Static_assert(sizeof(struct function_counters) == 64, "function_counters");
_Static_assert(sizeof(struct function_about) == 48, "function_about");
_Static_assert(sizeof(struct function_reason) == 160, "function_reason");

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, function_frames, uint32_t, struct function_frame, 1, 0);
MAP(BPF_MAP_TYPE_ARRAY, vpc_functions, uint32_t, uint64_t, 65536, 0);
MAP(BPF_MAP_TYPE_ARRAY, endpoint_functions, uint32_t, uint64_t, 16384, 0);
MAP(BPF_MAP_TYPE_ARRAY, network_functions, uint32_t, uint64_t, 131072, 0);
MAP(BPF_MAP_TYPE_HASH, group_functions, struct group_set_key, uint64_t, 65536, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, function_counters, uint32_t, struct function_counters, FUNCTIONS * FUNCTION_STAGES, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, function_drops, uint32_t, struct drop_counter, FUNCTIONS * FUNCTION_REASONS, 0);
MAP(BPF_MAP_TYPE_PROG_ARRAY, function_xdp, uint32_t, uint32_t, FUNCTION_PLACES, 0);
MAP(BPF_MAP_TYPE_PROG_ARRAY, function_tc, uint32_t, uint32_t, FUNCTION_PLACES, 0);

/* A variable and no lookup, so that looking costs next to nothing. The loader shares it as the map `function_switches`. */
volatile struct function_switches function_switches SEC(".data.functions");

enum function_constant {
	FUNCTION_STAGE_MASK = 7,
	FUNCTION_INNER_AT = 0x1ff,	/* an inner frame begins below it: outer headers and options are shorter */
};

static __always_inline bool has_functions(uint32_t stages)
{
	return function_switches.stages & stages;
}

static __always_inline struct function_frame *function_frame(void)
{
	uint32_t zero = 0;

	return bpf_map_lookup_elem(&function_frames, &zero);
}

/* Of a local endpoint: what is for its VPC, its network and its groups is in there. */
static __always_inline uint64_t functions_of_endpoint(uint32_t slot)
{
	const uint64_t *functions = bpf_map_lookup_elem(&endpoint_functions, &slot);

	return function_switches.droplet | (functions ? *functions : 0);
}

static __always_inline uint64_t functions_of_vpc(uint32_t slot)
{
	const uint64_t *functions = slot ? bpf_map_lookup_elem(&vpc_functions, &slot) : NULL;

	return function_switches.droplet | (functions ? *functions : 0);
}

/* The inner frame from `at` on: its addresses, and where its headers are. */
static __always_inline void read_inner(struct function_frame *frame, void *begin, void *end, uint32_t at)
{
	struct ethhdr *eth;

	frame->inner_at = at;
	frame->network_at = 0;
	frame->transport_at = 0;
	frame->family = FAMILY_OTHER;
	frame->protocol = 0;
	frame->fragment = 0;
	eth = begin + (at & FUNCTION_INNER_AT);
	if ((void *)(eth + 1) > end)
		return;
	at += ETH_HLEN;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return;
		frame->family = FAMILY_IPV4;
		frame->protocol = ip->protocol;
		frame->network_at = at;
		frame->fragment = !!(ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET));
		if (!(ip->frag_off & bpf_htons(IP_FRAGMENT_OFFSET)))
			frame->transport_at = at + ip->ihl * 4;
		map_address(frame->src, ip->saddr);
		map_address(frame->dst, ip->daddr);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return;
		frame->family = FAMILY_IPV6;
		frame->protocol = ip->nexthdr;
		frame->network_at = at;
		frame->transport_at = at + sizeof(*ip);
		frame->fragment = ip->nexthdr == IPPROTO_FRAGMENT;
		copy_address(frame->src, &ip->saddr);
		copy_address(frame->dst, &ip->daddr);
	}
}

/* What is around it, where the pipeline says that it is in a tunnel. Returns where the inner frame begins; 0: it is in none. */
static __always_inline uint32_t read_tunnel(struct function_frame *frame, void *begin, void *end)
{
	struct ethhdr *eth = begin;
	struct udphdr *udp;
	struct tunnel_header *tunnel;
	uint32_t at = OVERHEAD_IPV4 - sizeof(*udp) - sizeof(*tunnel);

	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		at = OVERHEAD_IPV6 - sizeof(*udp) - sizeof(*tunnel);
	udp = begin + at;
	tunnel = (void *)(udp + 1);
	if ((void *)(tunnel + 1) > end)
		return 0;
	frame->outer_family = at == OVERHEAD_IPV4 - sizeof(*udp) - sizeof(*tunnel) ? FAMILY_IPV4 : FAMILY_IPV6;
	frame->tunnel = udp->dest == bpf_htons(VXLAN_PORT) ? TUNNEL_VXLAN : TUNNEL_GENEVE;
	frame->wire_vni = bpf_ntohl(tunnel->vni) >> 8;
	at += sizeof(*udp) + sizeof(*tunnel);
	if (frame->tunnel == TUNNEL_GENEVE) {
		frame->option_bytes = (tunnel->first & GENEVE_LENGTH_MASK) * 4;
		frame->options_at = frame->option_bytes ? at : 0;
		at += frame->option_bytes;
	}
	return at;
}

/* What is not read from the frame. `verdict`: the pipeline's. */
static __always_inline void begin_frame(struct function_frame *frame, uint64_t functions, uint32_t stage, uint32_t verdict,
					const struct packet *packet)
{
	frame->functions = functions;
	frame->stage = stage;
	frame->verdict = verdict;
	frame->reason = 0;
	frame->redirect_ifindex = 0;
	frame->vni = packet->to.vni;
	frame->wire_vni = 0;
	frame->vpc_slot = packet->vpc_slot;
	frame->network = 0;
	frame->endpoint = 0;
	frame->ifindex = 0;
	frame->from = 0;
	frame->length = packet->length;
	frame->packets = packet->packets;
	frame->options_at = 0;
	frame->option_bytes = 0;
	frame->group_set = 0;
	frame->tunnel = 0;
	frame->outer_family = 0;
	frame->trace = 0;
	/* What a parser found, for frames in which the inner addresses cannot be found again. */
	copy_address(frame->src, packet->src);
	copy_address(frame->dst, packet->to.addr);
}
#endif
