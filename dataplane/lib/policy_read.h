/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what of a packet a policy asks for: which flow it is of, and what it is called in rules. Goes on where parse.h ended.
 */
#ifndef MIZAR_POLICY_READ_H
#define MIZAR_POLICY_READ_H
#include "flow.h"
#include "policy_work.h"

enum policy_read_constant {
	PORTS_BYTES = 8,	/* of TCP, UDP, SCTP and ICMP: what is looked at in one go, and what an ICMP error has of a packet */
	TCP_ACK_ALONE = 0x10,
	TCP_ACK_SYN = 0x12,
	TCP_SYN_ALONE = 2,
	TCP_FIN_RST = 5,
	POLICED_AT_MASK = 0x1ff,	/* where the inner frame begins, at most; as the verifier may not see */
};

static __always_inline bool has_ports(uint8_t protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* In one piece, as the next: whoever reads a word whose halves were just written waits for them. */
static __always_inline void write_ports(struct policy_flow_key *key, bool from_peer, const word16 *ports)
{
	uint32_t both = *(const word32 *)ports;

	*(word32 *)&key->own_port_be = from_peer ? swap_ports(both) : both;
}

static __always_inline void write_protocol(struct policy_flow_key *key, uint8_t protocol, bool later)
{
	*(word32 *)&key->protocol = bpf_htonl((uint32_t)protocol << 24 | (uint32_t)later << 16);
}

static __always_inline void write_identifier(struct policy_flow_key *key, uint16_t identifier)
{
	*(word32 *)&key->own_port_be = (uint32_t)identifier << 16 | identifier;
}

/* The packet that an ICMP error is about went the other way. ALONE: it is of no use. */
static __always_inline uint32_t read_error(struct cursor *cursor, const struct packet *packet, bool v4, bool ingress,
					   struct policy_work *work)
{
	struct policy_flow_key *key = &work->key;
	const word16 *words;
	uint8_t protocol;

	if (v4) {
		const struct iphdr *ip = take(cursor, sizeof(*ip));

		if (!ip || ip->ihl != 5 || ip->frag_off & bpf_htons(IP_FRAGMENT_OFFSET))
			return POLICED_ALONE;
		if (ingress ? ip->saddr != address_ipv4_be(packet->to.addr) : ip->daddr != address_ipv4_be(packet->src))
			return POLICED_ALONE;
		protocol = ip->protocol;
		map_address(key->peer, ingress ? ip->daddr : ip->saddr);
	} else {
		const struct ipv6hdr *ip = take(cursor, sizeof(*ip));

		if (!ip)
			return POLICED_ALONE;
		if (ingress ? !same_address(&ip->saddr, packet->to.addr) : !same_address(&ip->daddr, packet->src))
			return POLICED_ALONE;
		protocol = ip->nexthdr;
		if (ingress)
			copy_address(key->peer, &ip->daddr);
		else
			copy_address(key->peer, &ip->saddr);
	}
	words = take(cursor, PORTS_BYTES);
	/* What the endpoint says of a packet it says to who sent that, and to nobody else. */
	if (!words || is_extension(protocol) || (!ingress && !same_address(key->peer, packet->to.addr)))
		return POLICED_ALONE;
	write_protocol(key, protocol, false);
	if (has_ports(protocol))
		write_ports(key, !ingress, words);
	else if (protocol == (v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		write_identifier(key, words[2]);
	return POLICED_ERROR;
}

static __always_inline uint32_t read_message(struct cursor *cursor, const struct packet *packet, bool v4,
						      bool ingress, struct policy_work *work)
{
	uint8_t request = v4 ? ECHO4_REQUEST : ICMPV6_ECHO_REQUEST, reply = v4 ? ECHO4_REPLY : ICMPV6_ECHO_REPLY;
	const struct inner inner = { .kind = v4 ? INNER_IPV4 : INNER_IPV6 };
	const word16 *words = take(cursor, PORTS_BYTES);
	uint8_t type;

	if (!words)
		return POLICED_UNREADABLE;
	type = *(const uint8_t *)words;
	work->message_be = words[0];
	if (type == request || type == reply) {
		write_identifier(&work->key, words[2]);
		return POLICED_FLOW | POLICED_MESSAGE | (type == request ? POLICED_BEGINS : 0);
	}
	return POLICED_MESSAGE |
	       (is_error(&inner, type) ? read_error(cursor, packet, v4, ingress, work) : (uint32_t)POLICED_ALONE);
}

static __always_inline uint32_t read_segment(struct cursor *cursor, uint8_t protocol, bool ingress, bool first,
					     struct policy_work *work)
{
	const word16 *words = take(cursor, PORTS_BYTES);
	const uint8_t *rest;
	uint32_t found = POLICED_FLOW | POLICED_PORTS;

	if (!words)
		return POLICED_UNREADABLE;
	write_ports(&work->key, ingress, words);
	if (protocol != IPPROTO_TCP)
		return found;
	rest = take(cursor, TCP_BYTES - PORTS_BYTES);
	if (!rest)	/* A header that ends before its flags would hide a SYN. */
		return first ? found | POLICED_BEGINS : POLICED_UNREADABLE;
	if ((rest[5] & TCP_ACK_SYN) == TCP_SYN_ALONE)
		found |= POLICED_BEGINS;
	if (rest[5] & TCP_FIN_RST)
		found |= POLICED_CLOSES;
	return found | (rest[5] & TCP_ACK_ALONE ? 0 : POLICED_BARE);
}

/*
 * The cursor behind the IP header, which was found sound before; of IPv4, `fragment` too. It is read again, because a cursor
 * that callers keep until here makes all that they do in between as many times as hard for the verifier as headers can be long.
 */
static __always_inline bool find_transport(void *frame, const struct packet *packet, bool v4, struct cursor *cursor,
					   uint8_t *protocol, uint16_t *fragment)
{
	cursor->at = frame + ((packet->inner_at + ETH_HLEN) & POLICED_AT_MASK);
	if (v4) {
		const struct iphdr *ip = cursor->at;
		uint32_t bytes;

		if ((void *)(ip + 1) > cursor->end)
			return false;
		bytes = ip->ihl * 4;
		cursor->left = (bpf_ntohs(ip->tot_len) - bytes) & 0xffff;
		cursor->at += bytes & 0x3c;
		*protocol = ip->protocol;
		*fragment = ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET);
	} else {
		const struct ipv6hdr *ip = cursor->at;

		if ((void *)(ip + 1) > cursor->end)
			return false;
		cursor->left = bpf_ntohs(ip->payload_len);
		cursor->at += sizeof(*ip);
		*protocol = ip->nexthdr;
	}
	return true;
}

/* What it is; `work` gets the rest of the key, whose ports are 0, and message_be. */
static __always_inline uint32_t read_policed(void *frame, void *end, const struct packet *packet, bool v4, bool ingress,
					     struct policy_work *work)
{
	struct cursor cursor = { .end = end };
	uint16_t fragment = 0;
	uint8_t protocol;
	bool later, first;
	uint32_t found;

	if (!find_transport(frame, packet, v4, &cursor, &protocol, &fragment))
		return POLICED_UNREADABLE;
	later = fragment & bpf_htons(IP_FRAGMENT_OFFSET);
	first = fragment && !later;
	if (!v4 && is_extension(protocol)) {
		const struct extension *extension = take(&cursor, FRAGMENT_BYTES);

		if (protocol != IPPROTO_FRAGMENT || !extension || is_extension(extension->next))
			return POLICED_UNREADABLE;
		later = extension->fragment & bpf_htons(0xfff8);
		first = !later;
		protocol = extension->next;
	}
	write_protocol(&work->key, protocol, later);
	if (later)
		return POLICED_LATER;
	found = POLICED_FLOW;
	if (has_ports(protocol))
		found = read_segment(&cursor, protocol, ingress, first, work);
	else if (protocol == (v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		found = read_message(&cursor, packet, v4, ingress, work);
	return first ? found | POLICED_FIRST : found;
}
#endif
