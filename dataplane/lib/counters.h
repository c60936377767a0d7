/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the counting of packets that were served. (Those that were refused: verdict.h.) Per CPU, so a plain addition
 * suffices: agent and Transit XDP run in softirq context and never interrupt one another on one CPU.
 */
#ifndef MIZAR_COUNTERS_H
#define MIZAR_COUNTERS_H
#include "packet.h"

static __always_inline struct vpc_counters *vpc_counters_of(uint32_t slot)
{
	return bpf_map_lookup_elem(&vpc_counters, &slot);
}

static __always_inline struct endpoint_counters *endpoint_counters_of(uint32_t slot)
{
	return bpf_map_lookup_elem(&endpoint_counters, &slot);
}

static __always_inline void count_delivered(const struct packet *packet, uint32_t endpoint_slot)
{
	struct vpc_counters *vpc = vpc_counters_of(packet->vpc_slot);
	struct endpoint_counters *endpoint = endpoint_counters_of(endpoint_slot);

	if (vpc) {
		vpc->delivered_packets += packet->packets;
		vpc->delivered_bytes += packet->bytes;
	}
	if (endpoint) {
		endpoint->delivered_packets += packet->packets;
		endpoint->delivered_bytes += packet->bytes;
	}
}

/* Accepted from an endpoint: encapsulated (`vpc_slot`: of its VPC, else 0) or handed to a neighbour on the same droplet. */
static __always_inline void count_sent(const struct packet *packet, uint32_t endpoint_slot, uint32_t vpc_slot)
{
	struct endpoint_counters *endpoint = endpoint_counters_of(endpoint_slot);

	if (endpoint) {
		endpoint->sent_packets += packet->packets;
		endpoint->sent_bytes += packet->bytes;
	}
	if (vpc_slot) {
		struct vpc_counters *vpc = vpc_counters_of(vpc_slot);

		if (vpc) {
			vpc->sent_packets += packet->packets;
			vpc->sent_bytes += packet->bytes;
		}
	}
}

/* Of what was sent: on the direct path. */
static __always_inline void count_direct(const struct packet *packet)
{
	struct vpc_counters *vpc = vpc_counters_of(packet->vpc_slot);

	if (vpc) {
		vpc->direct_packets += packet->packets;
		vpc->direct_bytes += packet->bytes;
	}
}

/* Sent back: `vpc_slot` is 0 where not even the VPC is known any more. */
static __always_inline void count_returned(const struct packet *packet)
{
	struct vpc_counters *vpc = packet->vpc_slot ? vpc_counters_of(packet->vpc_slot) : NULL;

	if (vpc)
		vpc->returned_packets += packet->packets;
}

static __always_inline void count_bounced(const struct packet *packet)
{
	struct vpc_counters *vpc = vpc_counters_of(packet->vpc_slot);

	if (vpc) {
		vpc->bounced_packets += packet->packets;
		vpc->bounced_bytes += packet->bytes;
	}
}

static __always_inline void count_divided(const struct packet *packet)
{
	struct vpc_counters *vpc = vpc_counters_of(packet->vpc_slot);

	if (vpc) {
		vpc->divided_packets += packet->packets;
		vpc->divided_bytes += packet->bytes;
	}
}

static __always_inline void count_to_divider(const struct packet *packet)
{
	struct vpc_counters *vpc = vpc_counters_of(packet->vpc_slot);

	if (vpc) {
		vpc->to_divider_packets += packet->packets;
		vpc->to_divider_bytes += packet->bytes;
	}
}

/* Crosses from its VPC into a peered one. */
static __always_inline void count_peered(const struct packet *packet)
{
	struct vpc_counters *vpc = vpc_counters_of(packet->vpc_slot);

	if (vpc) {
		vpc->peered_packets += packet->packets;
		vpc->peered_bytes += packet->bytes;
	}
}

static __always_inline void count_unsticky(const struct packet *packet)
{
	struct vpc_counters *vpc = vpc_counters_of(packet->vpc_slot);

	if (vpc)
		vpc->unsticky_packets += packet->packets;
}

/* `endpoint_slot` 0: the answer goes through the tunnel. */
static __always_inline void count_answered(const struct packet *packet, uint32_t endpoint_slot)
{
	struct vpc_counters *vpc = vpc_counters_of(packet->vpc_slot);
	struct endpoint_counters *endpoint = endpoint_slot ? endpoint_counters_of(endpoint_slot) : NULL;

	if (vpc)
		vpc->answered_packets += packet->packets;
	if (endpoint)
		endpoint->answered_packets += packet->packets;
}
#endif
