/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns changes of an inner frame that keep its length: MAC addresses, TTL and hop limit. Checksums follow by RFC 1624,
 * so that a wrong one stays wrong.
 */
#ifndef MIZAR_REWRITE_H
#define MIZAR_REWRITE_H
#include "parse.h"

/* One virtual hop. Nothing is changed when the TTL runs out. */
static __always_inline __must_check enum drop_reason decrement_ttl(const struct inner *inner)
{
	if (inner->kind == INNER_IPV4) {
		struct iphdr *ip = inner->ip4;
		uint32_t sum = ip->check + bpf_htons(0x0100);

		if (ip->ttl <= 1)
			return REASON_TTL_EXPIRED;
		ip->ttl--;
		ip->check = sum + (sum >= 0xffff);
	} else {
		struct ipv6hdr *ip = inner->ip6;

		if (ip->hop_limit <= 1)
			return REASON_TTL_EXPIRED;
		ip->hop_limit--;
	}
	return REASON_NONE;
}

/* As the virtual router hands a frame to an endpoint, or to its host: see `final` in locate.h. */
static __always_inline void address_from_router(struct ethhdr *eth, const struct endpoint *endpoint)
{
	copy_mac(eth->h_dest, endpoint->mac);
	router_mac(eth->h_source);
}

/* The same on the way to its host: where the source address is a service's, the frame goes on saying so. */
static __always_inline void address_to_host(struct ethhdr *eth, const struct endpoint *endpoint)
{
	bool service = is_service_mac(eth->h_source);

	address_from_router(eth, endpoint);
	if (service)
		service_mac(eth->h_source);
}

/* Sent to what its sender took for the host of the endpoint: see `final` in locate.h. What is still on its way is addressed to
 * the router. */
static __always_inline bool is_final(const struct ethhdr *eth)
{
	return is_router_mac(eth->h_source) || is_public_mac(eth->h_source) ||
	       (is_service_mac(eth->h_source) && !is_router_mac(eth->h_dest));
}

/* RFC 1624 eqn. 3 for one 16-bit word of a header, all in the order of the wire. */
static __always_inline void update_checksum(__sum16 *check, uint16_t before, uint16_t after)
{
	uint32_t sum = (uint16_t)~*check + (uint16_t)~before + (uint32_t)after;

	sum = (sum & 0xffff) + (sum >> 16);
	*check = ~((sum & 0xffff) + (sum >> 16));
}
#endif
