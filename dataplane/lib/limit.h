/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns rates: what endpoints may send and be sent at a time, and the mark (DSCP) of what they send. See docs/qos.md.
 *
 * A limiter is a virtual clock that all CPUs share, one word for bytes and one for packets. What passes moves it on by what
 * it costs; where it is ahead of the real one by more than the burst, nothing passes. A packet is weighed before it is
 * charged, and may take the clock beyond the burst once: so a superpacket larger than the burst passes, and is paid for by
 * those behind it. CPUs that weigh at once may all pass; each is charged, so over a time the rate is exact all the same.
 */
#ifndef MIZAR_LIMIT_H
#define MIZAR_LIMIT_H
#include "policy_work.h"
#include "rewrite.h"
#include "shaper.h"

/* Whom an agent asks for: the slot of the sender in endpoint_counters, 0 for one that has no limits, and above it the same
 * of a receiver on this droplet. */
enum limit_who {
	LIMIT_WHO_RECEIVER = 31,
	LIMIT_WHO_SLOT = 0x7fffffff,
	LIMIT_WHO_PACED = 62,	/* it leaves by the droplet's interface, whose queue may hold it back */
};

enum limit_offset {
	SEGMENT_IPV4 = 14 + 20 + 32,	/* headers of a segment: TCP with its time stamps */
	SEGMENT_IPV6 = 14 + 40 + 32,
	FRAME_IP = 14,
	FRAME_IPV4_PROTOCOL = FRAME_IP + 9,
	FRAME_IPV6_PROTOCOL = FRAME_IP + 6,
	FRAME_IPV6_END = FRAME_IP + 40,
	TCP_HEADER_WORDS = 12,
	PROTOCOL_TCP = 6,
	UDP_HEADER = 8,
};

/* A packet as it is weighed. */
struct load {
	uint64_t now;
	uint64_t patience;	/* how late it may leave, in ns */
	uint64_t late;		/* how late it leaves */
	uint32_t bytes;		/* on the wire */
	uint32_t packets;
	bool shaped;		/* bytes wait in the shaper, and are not looked at */
};

static __always_inline bool is_limited(const struct endpoint *endpoint, bool member)
{
	return endpoint->flags & (member ? MEMBER_LIMITED : ENDPOINT_LIMITED);
}

/* Bytes of the headers that each segment of a superpacket bears: up to and with TCP's, or UDP's. */
static __always_inline uint32_t segment_headers(struct __sk_buff *skb, bool ipv6)
{
	uint32_t bytes = FRAME_IPV6_END;
	uint8_t protocol = 0, octet = 0;

	if (!ipv6 && !bpf_skb_load_bytes(skb, FRAME_IP, &octet, 1))
		bytes = FRAME_IP + (octet & 0xf) * 4;
	if (bpf_skb_load_bytes(skb, ipv6 ? FRAME_IPV6_PROTOCOL : FRAME_IPV4_PROTOCOL, &protocol, 1) ||
	    protocol != PROTOCOL_TCP || bpf_skb_load_bytes(skb, bytes + TCP_HEADER_WORDS, &octet, 1))
		return bytes + UDP_HEADER;
	return bytes + (octet >> 4) * 4;
}

/* One whose segments nobody has counted comes from a virtual machine. */
static __always_inline void weigh_segments(struct __sk_buff *skb, const struct packet *packet, struct load *load)
{
	const uint32_t size = skb->gso_size;
	uint32_t headers;

	if (!size)
		return;
	headers = segment_headers(skb, !is_mapped(packet->src));
	if (packet->bytes <= headers)
		return;
	load->packets = (packet->bytes - headers + size - 1) / size;
	load->bytes += (load->packets - 1) * headers;
}

/* How far the clock is beyond the burst. */
static __always_inline uint64_t beyond(uint64_t due, uint64_t burst, uint64_t now)
{
	return due > now + burst ? due - now - burst : 0;
}

static __always_inline void charge(uint64_t *clock, uint64_t cost, uint64_t now)
{
	uint64_t was = *(volatile uint64_t *)clock;

	/* Behind: it stood still while nobody sent. Who is first sets it, and then nobody else has to. */
	if (was < now && __sync_val_compare_and_swap(clock, was, now + cost) == was)
		return;
	__sync_fetch_and_add(clock, cost);
}

/* Whether it passes one limiter: then it is charged. `free`: it passes in any case. */
static __always_inline bool pass_limiter(uint32_t slot, struct load *load, bool free)
{
	const bool shaped = load->shaped;
	const struct limiter *limiter = bpf_map_lookup_elem(&limiters, &slot);
	struct limiter_state *state = bpf_map_lookup_elem(&limiter_states, &slot);
	uint64_t late, late_packets;

	if (!limiter || !state)
		return true;
	late = limiter->byte_cost && !shaped ? beyond(state->bytes_due, limiter->byte_burst_ns, load->now) : 0;
	late_packets = limiter->packet_cost ? beyond(state->packets_due, limiter->packet_burst_ns, load->now) : 0;
	if (late_packets > late)
		late = late_packets;
	if (late > load->patience && !free) {
		__sync_fetch_and_add(&state->dropped_packets, load->packets);
		__sync_fetch_and_add(&state->dropped_bytes, load->bytes);
		return false;
	}
	if (limiter->byte_cost && !shaped)
		charge(&state->bytes_due, load->bytes * limiter->byte_cost >> LIMITER_SHIFT, load->now);
	if (limiter->packet_cost)
		charge(&state->packets_due, load->packets * limiter->packet_cost >> LIMITER_SHIFT, load->now);
	if (late && !free) {
		__sync_fetch_and_add(&state->delayed_packets, load->packets);
		__sync_fetch_and_add(&state->delayed_bytes, load->bytes);
		if (late > load->late)
			load->late = late;
	}
	return true;
}

/* Who refused it, for who tells of it (name_rule()): the slot of the limiter, and the endpoint's. */
static __always_inline void note_limiter(uint32_t limiter, uint32_t slot)
{
	struct policy_work *work = policy_work();

	if (work) {
		work->rule = limiter;
		work->policed_slot = slot;
	}
}

static __always_inline int pass_limiters(const struct endpoint_limits *limits, struct load *load, bool ingress,
					 uint32_t endpoint_slot)
{
	if (ingress)
		load->shaped = limits->ingress_class && shaper_interface();
	for (uint32_t place = 0; place < LIMIT_PLACES; place++) {
		uint32_t slot = ingress ? limits->ingress[place] : limits->egress[place];

		if (slot && !pass_limiter(slot, load, false)) {
			note_limiter(slot, endpoint_slot);
			return ingress ? REASON_LIMIT_INGRESS : REASON_LIMIT_EGRESS;
		}
	}
	return REASON_NONE;
}

/* The endpoint's class instead of what its packet claims; congestion marks (RFC 3168) stay. */
static __always_inline void write_dscp(struct __sk_buff *skb, bool ipv6, uint8_t dscp)
{
	uint8_t *ip = (void *)(long)skb->data + FRAME_IP;

	if ((void *)(ip + sizeof(struct iphdr)) > (void *)(long)skb->data_end)
		return;
	if (ipv6) {
		ip[0] = 0x60 | dscp >> 2;
		ip[1] = (dscp & 3) << 6 | (ip[1] & 0x3f);
	} else {
		struct iphdr *header = (void *)ip;
		uint16_t before = *(word16 *)ip;

		header->tos = dscp << 2 | (header->tos & 3);
		update_checksum(&header->check, before, *(word16 *)ip);
	}
}

/* When fq is to let it leave: no earlier than another limit, or its sender's own pace, has said. */
static __always_inline void hold_back(struct __sk_buff *skb, const struct load *load)
{
	const uint64_t departs = load->now + load->late;

	if (!load->late || (skb->tstamp_type == BPF_SKB_TSTAMP_DELIVERY_MONO && skb->tstamp > departs))
		return;
	bpf_skb_set_tstamp(skb, departs, BPF_SKB_TSTAMP_DELIVERY_MONO);
}

/* What comes to an endpoint, once it is weighed. A function of its own for the verifier, as the next. */
__noinline int limit_receiver(struct load *load, uint32_t slot)
{
	const struct endpoint_limits *limits = bpf_map_lookup_elem(&endpoint_limits, &slot);

	return load && limits ? pass_limiters(limits, load, true, slot) : REASON_NONE;
}

/* Whether the packet may leave its endpoint, and come to its receiver: NONE, or why not. */
__noinline int limit_skb(struct __sk_buff *skb, struct packet *packet, uint64_t who)
{
	uint32_t slot = who & LIMIT_WHO_SLOT;
	const struct endpoint_limits *limits = bpf_map_lookup_elem(&endpoint_limits, &slot);
	struct load load = {};
	int reason = REASON_NONE;

	if (!packet || !limits)
		return REASON_NONE;
	load.now = bpf_ktime_get_ns();
	load.patience = who >> LIMIT_WHO_PACED ? config.pace_ns : 0;
	load.bytes = packet->bytes;
	load.packets = 1;
	load.shaped = packet->shaped;
	weigh_segments(skb, packet, &load);
	if (slot) {
		if (limits->dscp) {
			write_dscp(skb, !is_mapped(packet->src), limits->dscp & DSCP_BITS);
			packet->service = (limits->dscp & DSCP_BITS) << 2;
		}
		reason = pass_limiters(limits, &load, false, slot);
		if (!reason && config.pace_ns)
			hold_back(skb, &load);
	}
	slot = who >> LIMIT_WHO_RECEIVER & LIMIT_WHO_SLOT;
	return reason || !slot ? reason : limit_receiver(&load, slot);
}

/* What comes out of the tunnel. */
static __always_inline __must_check enum drop_reason limit_frame(const struct packet *packet, uint32_t slot)
{
	/* Of a superpacket each further segment has headers as well: nearly, by usual ones. */
	struct load load = {
		.now = bpf_ktime_get_ns(),
		.bytes = packet->bytes + (packet->packets - 1) * (is_mapped(packet->src) ? SEGMENT_IPV4 : SEGMENT_IPV6),
		.packets = packet->packets,
	};

	return (enum drop_reason)limit_receiver(&load, slot);
}

/*
 * Whether the droplet's interface has room: what is within its endpoint's guarantee goes first, by using up what is there
 * for the rest. `slot`: of a sender with a record of limits, else 0.
 */
__noinline int limit_uplink(struct __sk_buff *skb, const struct packet *packet, uint32_t slot)
{
	const struct endpoint_limits *limits = slot ? bpf_map_lookup_elem(&endpoint_limits, &slot) : NULL;
	struct load load = {};
	bool guaranteed;

	if (!packet)
		return REASON_NONE;
	load.now = bpf_ktime_get_ns();
	load.bytes = packet->bytes;
	load.packets = 1;
	weigh_segments(skb, packet, &load);
	guaranteed = limits && limits->guarantee && pass_limiter(limits->guarantee, &load, false);
	load.patience = config.pace_ns;
	if (pass_limiter(LIMITER_UPLINK, &load, guaranteed)) {
		if (config.pace_ns)
			hold_back(skb, &load);
		return REASON_NONE;
	}
	note_limiter(LIMITER_UPLINK, slot);
	return REASON_UPLINK_FULL;
}
#endif
