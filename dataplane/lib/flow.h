/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the flows of scaled endpoints: what names one (also in a fragment, and in an ICMP error about one), and the table of
 * them. A flow is inserted with its first packet; later ones write in place, and only what changed. Each VPC has a budget of
 * its own.
 */
#ifndef MIZAR_FLOW_H
#define MIZAR_FLOW_H
#include "clock.h"
#include "counters.h"
#include "hash.h"

enum icmp_error {	/* RFC 792, RFC 4443: those that carry the packet that they are about */
	ERROR4_UNREACHABLE = 3,
	ERROR4_TIME = 11,
	ERROR4_PARAMETER = 12,
	ERROR6_FIRST = 1,
	ERROR6_LAST = 4,
	ECHO4_REPLY = 0,
	ECHO4_REQUEST = 8,
	ECHO_BYTES = 8,
	TCP_BYTES = 20,
};

enum fragment_place {
	FRAGMENT_FIRST = 1,	/* shows ports, as a whole packet does */
	FRAGMENT_LATER,
};

/* What of a packet matters to a service. */
struct transport {
	uint32_t ports_be;	/* as sent by the client: its own, the service's. 0 in FRAGMENT_LATER, and in fragments of ICMP */
	uint32_t other[4];	/* the address at the other end than the service's */
	uint8_t protocol;	/* of the flow */
	bool error;		/* an ICMP error about a packet that went the other way */
	bool syn;		/* TCP: begins a connection */
	bool closing;		/* TCP: FIN or RST */
	uint8_t fragment;	/* of TCP and UDP: enum fragment_place, or 0 */
	uint16_t checksum_at;	/* in the frame; 0: nothing to follow a change of address */
	uint16_t embedded_at;	/* of an error: where the IP header of the packet that it is about is, in the frame */
};

static __always_inline uint32_t swap_ports(uint32_t ports_be)
{
	return ports_be << 16 | ports_be >> 16;
}

static __always_inline bool is_error(const struct inner *inner, uint8_t type)
{
	if (inner->kind == INNER_IPV4)
		return type == ERROR4_UNREACHABLE || type == ERROR4_TIME || type == ERROR4_PARAMETER;
	return type >= ERROR6_FIRST && type <= ERROR6_LAST;
}

/*
 * The packet that an ICMP error is about. To a service: what went from there to t->other. From a member: what came from t->other, to
 * whom the error goes, and to nobody else. Ports are left as it bore them. False: of no use.
 */
static __always_inline __must_check bool parse_embedded(struct cursor *cursor, const struct packet *packet,
							const struct inner *inner, bool to_service, struct transport *t)
{
	const uint32_t *service = to_service ? (const uint32_t *)packet->to.addr : packet->src;
	word32 *ports;
	word16 *echo;

	/* To the service: about what the service sent. From a member: about what it was sent. */
	if (inner->kind == INNER_IPV4) {
		struct iphdr *ip = take(cursor, sizeof(*ip));

		if (!ip || ip->ihl != 5 || ip->frag_off & bpf_htons(IP_FRAGMENT_OFFSET))
			return false;
		if ((to_service ? ip->saddr : ip->daddr) != address_ipv4_be(service))
			return false;
		t->protocol = ip->protocol;
		map_address(t->other, to_service ? ip->daddr : ip->saddr);
	} else {
		struct ipv6hdr *ip = take(cursor, sizeof(*ip));

		if (!ip || !same_address(to_service ? &ip->saddr : &ip->daddr, service))
			return false;
		t->protocol = ip->nexthdr;
		copy_address(t->other, to_service ? &ip->daddr : &ip->saddr);
	}
	if (!to_service && !same_address(t->other, packet->to.addr))
		return false;
	ports = take(cursor, sizeof(*ports));
	echo = take(cursor, 4);
	if (!ports || !echo)
		return false;
	if (t->protocol == IPPROTO_TCP || t->protocol == IPPROTO_UDP)
		t->ports_be = to_service ? swap_ports(*ports) : *ports;
	else if (t->protocol == (inner->kind == INNER_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		t->ports_be = (uint32_t)echo[0] << 16 | echo[0];
	else
		return false;
	return true;
}

/*
 * What a packet to a service, or from a member of one, is part of; the cursor is behind its IP header. False: of nothing that
 * a service takes or answers.
 */
static __always_inline __must_check bool parse_transport(struct cursor cursor, const struct packet *packet,
							 const struct inner *inner, bool to_service, struct transport *t)
{
	void *frame = inner->eth;
	bool fragment = inner->fragment, first = true, v4 = inner->kind == INNER_IPV4;
	uint32_t at = cursor.at - frame;
	word32 *ports;

	*t = (struct transport){ .protocol = inner->protocol };
	copy_address(t->other, to_service ? packet->src : (const uint32_t *)packet->to.addr);
	if (v4) {
		first = !(inner->ip4->frag_off & bpf_htons(IP_FRAGMENT_OFFSET));
		at = ETH_HLEN + (inner->ip4->ihl & 15) * 4;
	} else if (t->protocol == IPPROTO_FRAGMENT) {
		struct extension *extension = take(&cursor, FRAGMENT_BYTES);

		if (!extension)
			return false;
		t->protocol = extension->next;
		fragment = true;
		first = !(extension->fragment & bpf_htons(0xfff8));
		at = ETH_HLEN + sizeof(struct ipv6hdr) + FRAGMENT_BYTES;
	} else {
		at = ETH_HLEN + sizeof(struct ipv6hdr);
	}
	if (t->protocol == IPPROTO_TCP || t->protocol == IPPROTO_UDP) {
		bool tcp = t->protocol == IPPROTO_TCP;

		t->checksum_at = first ? at + (tcp ? 16 : 6) : 0;
		if (fragment)
			t->fragment = first ? FRAGMENT_FIRST : FRAGMENT_LATER;
		if (!first)
			return true;
		ports = take(&cursor, sizeof(struct udphdr));
		if (!ports)
			return false;
		t->ports_be = to_service ? *ports : swap_ports(*ports);
		if (tcp) {
			uint8_t *rest = take(&cursor, TCP_BYTES - sizeof(struct udphdr));

			if (!rest)
				return false;
			t->closing = !fragment && rest[5] & 5;	/* RFC 9293 3.1: FIN, RST */
			t->syn = !fragment && (rest[5] & 0x12) == 2;	/* SYN without ACK */
		}
		return true;
	}
	if (t->protocol == (v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		uint8_t request = v4 ? ECHO4_REQUEST : ICMPV6_ECHO_REQUEST, reply = v4 ? ECHO4_REPLY : ICMPV6_ECHO_REPLY;
		uint8_t *icmp;

		/* ICMPv6's checksum covers the addresses, ICMP's does not. */
		t->checksum_at = first && !v4 ? at + 2 : 0;
		if (!first)
			return true;
		icmp = take(&cursor, ECHO_BYTES);
		if (!icmp)
			return false;
		if (icmp[0] == (to_service ? request : reply)) {
			uint16_t id = *(word16 *)(icmp + 4);

			t->ports_be = fragment ? 0 : (uint32_t)id << 16 | id;
			return true;
		}
		if (fragment || !is_error(inner, icmp[0]))
			return false;
		t->error = true;
		t->embedded_at = at + ECHO_BYTES;
		return parse_embedded(&cursor, packet, inner, to_service, t);
	}
	return false;
}

/* One hash of the five fields of a flow, or of its addresses alone (`by_client`): which place of the service's table takes it. All fragments of a datagram have one. */
static __always_inline uint64_t flow_hash(const struct flow_key *key, bool by_client)
{
	const word32 *client = (const word32 *)key->client, *server = (const word32 *)key->server;
	uint64_t value = by_client ? 0 : (uint64_t)key->ports_be << 32 | key->protocol;

	if (!is_mapped(client)) {
		value = mix(value ^ ((uint64_t)client[0] << 32 | client[1])) + ((uint64_t)server[0] << 32 | server[1]);
		value = mix(value ^ client[2]) + server[2];
	}
	return mix(mix(value) ^ ((uint64_t)client[3] << 32 | server[3]));
}

static __always_inline void make_key(struct flow_key *key, uint32_t vni, enum flow_kind kind, const void *server,
				     const struct transport *t)
{
	*key = (struct flow_key){
		.vni = vni,
		.ports_be = t->ports_be,
		.protocol = t->protocol,
		.kind = kind,
	};
	copy_address(key->client, t->other);
	copy_address(key->server, server);
}

static __always_inline uint32_t flow_tick(void)
{
	return coarse_ns() >> FLOW_STAMP_SHIFT;
}

/* Notes that a flow goes on: nothing is written where nothing changed. True: its stamp is new. */
static __always_inline bool touch_flow(struct flow *flow, const struct transport *t)
{
	uint32_t tick = flow_tick();
	uint8_t state = t->syn ? 0 : flow->state | FLOW_OPEN | (t->closing ? FLOW_CLOSING : 0);

	if (t->protocol == IPPROTO_TCP && state != flow->state)
		flow->state = state;
	if (flow->stamp == tick)
		return false;
	flow->stamp = tick;
	return true;
}

/* Whether the VPC had room for it. `flow` lacks only what is the same for all. */
static __always_inline __must_check bool insert_flow(const struct flow_key *key, struct flow *flow, uint32_t vpc_slot,
						     const struct transport *t)
{
	struct flow_budget *budget = bpf_map_lookup_elem(&flow_budgets, &vpc_slot);
	struct flow_count *count = bpf_map_lookup_elem(&flow_counts, &vpc_slot);

	if (!budget || !count || count->inserted >= budget->until)
		return false;
	flow->vpc_slot = vpc_slot;
	flow->stamp = flow_tick();
	flow->state = t->protocol != IPPROTO_TCP || t->syn ? 0 : FLOW_OPEN | (t->closing ? FLOW_CLOSING : 0);
	if (bpf_map_update_elem(&flows, key, flow, BPF_NOEXIST))
		return bpf_map_lookup_elem(&flows, key);	/* another CPU was faster, or the map is full */
	__sync_fetch_and_add(&count->inserted, 1);
	return true;
}
#endif
