/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what the rules make of a new connection: what its source and its destination become, and in whose quota it is. From
 * inside, nat_sources has a rule for the source; from outside, nat_ends or a mapping has one for the destination; a connection
 * from inside to an outer end has both (hairpin: RFC 4787 REQ-9, with the outer address as its source).
 */
#ifndef MIZAR_GATEWAY_PLAN_H
#define MIZAR_GATEWAY_PLAN_H
#include "life.h"

enum plan_constant {
	SOURCE_BITS = 32 + 32,		/* version and metadata */
	END_BITS = 32 + 128 + 8 + 16,
};

struct begin_plan {
	uint32_t meta;		/* what the connection becomes */
	uint32_t outside;	/* where the ends of a pool are */
	uint32_t tenant;
	uint32_t pool;		/* slot; 0: the source's port stays */
	uint32_t flags;		/* of the pool */
	uint8_t src[16];	/* mapped, now; of IPv4 */
	uint8_t dst[16];
	uint8_t to_src[16];	/* what they become; of a pool: its address for this source */
	uint8_t to_dst[16];
	uint16_t src_port_be;
	uint16_t dst_port_be;
	uint16_t to_src_port_be;
	uint16_t to_dst_port_be;
	uint16_t first_port;	/* of the pool */
	uint16_t last_port;
	uint16_t connection;	/* enum connection_flag: FIXED, MAPPED */
	uint8_t protocol;
	uint8_t pad;
};

/* Ports that are tried one after another. */
struct port_search {
	uint32_t now;
	uint32_t first;		/* of the pool */
	uint32_t count;
	uint32_t start;
	uint32_t stride;
	int32_t error;		/* of the last insertion; 0: found */
};

/* All that beginning a connection works on: too much for the stack. */
struct begin_work {
	struct begin_plan plan;
	union {
		struct nat_source_key source;
		struct nat_end_key end;
		struct nat_mapping_key mapping;
	};
	struct nat_mapping_key inner;
	struct nat_mapping value;
	union {			/* the entry of the other direction */
		struct connection4_key key4;
		struct connection6_key key6;
	};
	union {
		struct connection4 back4;
		struct connection6 back6;
	};
	union {			/* room for one who removes */
		struct connection4_key other4;
		struct connection6_key other6;
	};
	struct port_search search;
	struct nat_tenant fresh;
};

GATEWAY_MAP(BPF_MAP_TYPE_PERCPU_ARRAY, gateway_work, uint32_t, struct begin_work, 1, 0);

static __always_inline bool is_query(uint8_t protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

static __always_inline void plan_flow(struct begin_plan *plan, const struct connection_seen *seen)
{
	if (seen->family == 4) {
		plan->meta = seen->key4.meta;
		map_ipv4(plan->src, seen->key4.src_be);
		map_ipv4(plan->dst, seen->key4.dst_be);
		plan->src_port_be = seen->key4.src_port_be;
		plan->dst_port_be = seen->key4.dst_port_be;
		plan->protocol = seen->key4.protocol;
	} else {
		plan->meta = seen->key6.meta;
		copy16(plan->src, seen->key6.src);
		copy16(plan->dst, seen->key6.dst);
		plan->src_port_be = seen->key6.src_port_be;
		plan->dst_port_be = seen->key6.dst_port_be;
		plan->protocol = seen->key6.protocol;
	}
	copy16(plan->to_src, plan->src);
	copy16(plan->to_dst, plan->dst);
	plan->to_src_port_be = plan->src_port_be;
	plan->to_dst_port_be = plan->dst_port_be;
	plan->tenant = plan->meta;
	plan->pool = 0;
	plan->flags = 0;
	plan->connection = 0;
}

/* A number of 128 bits modulo one of 32. */
static __always_inline uint32_t modulo(const void *address, uint32_t divisor)
{
	const wire32 *words = address;
	uint64_t rest = 0;

	for (int i = 0; i < 4; i++)
		rest = (rest << 32 | bpf_ntohl(words[i])) % divisor;
	return rest;
}

/* The pool's address for this source: always the same. */
static __always_inline bool plan_pool(struct begin_plan *plan, uint32_t slot, bool six)
{
	const struct nat_pool *pool = bpf_map_lookup_elem(&nat_pools, &slot);
	const struct nat_address *address;
	uint32_t place;

	if (!pool || !pool->addresses || pool->first_port > pool->last_port)
		return false;
	place = six ? modulo(plan->src, pool->addresses) : bpf_ntohl(((wire32 *)plan->src)[3]) % pool->addresses;
	place += pool->first_address;
	address = bpf_map_lookup_elem(&nat_addresses, &place);
	if (!address)
		return false;
	copy16(plan->to_src, address->addr);
	plan->meta = pool->meta;
	plan->pool = slot;
	plan->flags = pool->flags;
	plan->first_port = pool->first_port;
	plan->last_port = pool->last_port;
	plan->connection = pool->flags & POOL_MAPPING ? CONNECTION_MAPPED : 0;
	return true;
}

static __always_inline bool plan_source(struct begin_work *work, bool six)
{
	struct begin_plan *plan = &work->plan;
	const struct nat_source *source;
	const wire32 *src = (const wire32 *)plan->src;

	__builtin_memset(&work->source, 0, sizeof(work->source));
	work->source.prefix_bits = SOURCE_BITS + (six ? 128 : 32);
	work->source.version_be = bpf_htonl(six ? 6 : 4);
	work->source.meta_be = bpf_htonl(plan->meta);
	if (six)
		copy16(work->source.addr, src);
	else
		*(wire32 *)work->source.addr = src[3];
	source = bpf_map_lookup_elem(&nat_sources, &work->source);
	if (!source)
		return false;
	if (source->pool)
		return plan_pool(plan, source->pool, six);
	plan->meta = source->meta;
	plan->connection = CONNECTION_FIXED;
	copy16(plan->to_src, source->addr);
	return true;
}

/* An endpoint-independent mapping lets new connections in where its pool's filter does (RFC 4787 REQ-8). */
static __always_inline const struct nat_mapping *plan_mapped(struct begin_work *work)
{
	struct begin_plan *plan = &work->plan;
	const struct nat_settings *set = settings();
	const struct nat_mapping *mapping, *contact;
	const struct nat_pool *pool;
	uint32_t slot;

	if (!set || !set->mappings)
		return NULL;
	__builtin_memset(&work->mapping, 0, sizeof(work->mapping));
	work->mapping.meta = plan->meta;
	work->mapping.port_be = plan->dst_port_be;
	work->mapping.protocol = plan->protocol;
	work->mapping.kind = MAPPING_OUTER;
	copy16(work->mapping.addr, plan->dst);
	mapping = bpf_map_lookup_elem(&nat_mappings, &work->mapping);
	if (!mapping)
		return NULL;
	slot = mapping->pool;
	pool = bpf_map_lookup_elem(&nat_pools, &slot);
	if (!pool)
		return NULL;
	if (pool->flags & POOL_FILTER_NONE)
		return mapping;
	if (!(pool->flags & POOL_FILTER_ADDRESS))
		return NULL;
	work->mapping.kind = MAPPING_CONTACT;
	copy16(work->mapping.contact, plan->to_src);
	contact = bpf_map_lookup_elem(&nat_mappings, &work->mapping);
	/* One that is left of who had this outer end before lets nobody in. */
	if (!contact || contact->meta != mapping->meta || contact->port_be != mapping->port_be ||
	    !same16(contact->addr, mapping->addr))
		return NULL;
	return mapping;
}

/* Whether there is somebody behind the destination. */
static __always_inline bool plan_destination(struct begin_work *work)
{
	struct begin_plan *plan = &work->plan;
	const struct nat_mapping *mapping;
	const struct nat_end *end;

	__builtin_memset(&work->end, 0, sizeof(work->end));
	work->end.prefix_bits = END_BITS;
	work->end.meta_be = bpf_htonl(plan->meta);
	work->end.protocol = plan->protocol;
	copy16(work->end.addr, plan->dst);
	*(wire16 *)work->end.port_be = plan->dst_port_be;
	end = bpf_map_lookup_elem(&nat_ends, &work->end);
	if (end) {
		plan->meta = end->meta;
		plan->connection |= plan->pool ? 0 : CONNECTION_FIXED;
		copy16(plan->to_dst, end->addr);
		plan->to_dst_port_be = bpf_htons(bpf_ntohs(plan->dst_port_be) + end->add_port);
		return true;
	}
	mapping = plan_mapped(work);
	if (!mapping)
		return false;
	plan->meta = mapping->meta;
	copy16(plan->to_dst, mapping->addr);
	plan->to_dst_port_be = mapping->port_be;
	if (is_query(plan->protocol))
		plan->to_src_port_be = mapping->port_be;
	return true;
}

/* False: there is no rule. */
static __noinline bool make_plan(struct begin_work *work, const struct connection_seen *seen)
{
	struct begin_plan *plan = &work->plan;
	bool inside, inward;

	plan_flow(plan, seen);
	inside = plan_source(work, seen->family == 6);
	plan->outside = plan->meta;
	inward = plan_destination(work);
	if (!inside)
		plan->tenant = plan->meta;
	return inside || inward;
}
#endif
