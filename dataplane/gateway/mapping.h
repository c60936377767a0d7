/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns endpoint-independent mappings (RFC 4787 REQ-1): an inner end has one outer end for as long as it has connections, whoever
 * they go to. Inserting a mapping under its outer end, where there is none, is what makes the end its own. Included by allocate.h.
 */
#ifndef MIZAR_GATEWAY_MAPPING_H
#define MIZAR_GATEWAY_MAPPING_H

/* 0: the outer end with this port is this inner end's. */
static __always_inline int take_outer(struct begin_work *work, uint16_t port_be)
{
	work->mapping.port_be = port_be;
	return bpf_map_update_elem(&nat_mappings, &work->mapping, &work->value, BPF_NOEXIST);
}

static long try_outer(uint32_t number, struct port_tries *tries)
{
	struct port_search *search = &tries->work->search;

	search->error = take_outer(tries->work, bpf_htons(port_of(search, number)));
	return search->error != LINE_EXISTS;
}

/* The outer end's key, without its port. */
static __always_inline void fill_outer(struct begin_work *work, uint8_t kind)
{
	__builtin_memset(&work->mapping, 0, sizeof(work->mapping));
	work->mapping.meta = work->plan.outside;
	work->mapping.protocol = work->plan.protocol;
	work->mapping.kind = kind;
	copy16(work->mapping.addr, work->plan.to_src);
}

static __always_inline void fill_inner_value(struct begin_work *work, uint32_t now)
{
	work->value.meta = work->inner.meta;
	work->value.port_be = work->plan.src_port_be;
	work->value.pool = work->plan.pool;
	work->value.stamp = now;
	copy16(work->value.addr, work->plan.src);
}

static __always_inline enum gateway_reason make_mapping(struct begin_work *work, const struct connection_seen *seen, uint32_t now)
{
	const struct begin_plan *plan = &work->plan;
	uint32_t own = bpf_ntohs(plan->src_port_be);
	struct port_search *search = &work->search;
	struct port_tries all = { .work = work, .seen = seen };
	int error;

	search->error = LINE_EXISTS;
	choose_ports(search, plan, seen->family == 6, work->inner.meta, true);
	fill_outer(work, MAPPING_OUTER);
	fill_inner_value(work, now);
	if (own >= plan->first_port && own <= plan->last_port)
		search->error = take_outer(work, plan->src_port_be);
	if (search->error == LINE_EXISTS)
		bpf_loop(search->count < PORT_TRIES ? search->count : PORT_TRIES - 1, try_outer, &all, 0);
	if (search->error)
		return search->error == LINE_EXISTS ? GATEWAY_PORTS_EXHAUSTED : GATEWAY_TABLE_FULL;
	work->plan.to_src_port_be = work->mapping.port_be;
	work->value.meta = plan->outside;
	work->value.port_be = plan->to_src_port_be;
	copy16(work->value.addr, plan->to_src);
	error = bpf_map_update_elem(&nat_mappings, &work->inner, &work->value, BPF_NOEXIST);
	if (error)
		bpf_map_delete_elem(&nat_mappings, &work->mapping);
	return !error ? GATEWAY_REASON_NONE : error == LINE_EXISTS ? GATEWAY_END_TAKEN : GATEWAY_TABLE_FULL;
}

/* The inner end's own outer end, then the connection itself. */
static __noinline enum gateway_reason find_mapping(struct begin_work *work, const struct connection_seen *seen, uint32_t now)
{
	struct begin_plan *plan = &work->plan;
	struct nat_mapping *mapping;
	enum gateway_reason reason;
	int error;

	__builtin_memset(&work->inner, 0, sizeof(work->inner));
	work->inner.meta = seen->family == 6 ? seen->key6.meta : seen->key4.meta;
	work->inner.port_be = plan->src_port_be;
	work->inner.protocol = plan->protocol;
	work->inner.kind = MAPPING_INNER;
	copy16(work->inner.addr, plan->src);
	mapping = bpf_map_lookup_elem(&nat_mappings, &work->inner);
	if (mapping) {
		mapping->stamp = now;
		plan->to_src_port_be = mapping->port_be;
	} else {
		reason = make_mapping(work, seen, now);
		if (reason)
			return reason;
	}
	if (plan->flags & POOL_FILTER_ADDRESS) {
		fill_outer(work, MAPPING_CONTACT);
		work->mapping.port_be = plan->to_src_port_be;
		copy16(work->mapping.contact, plan->dst);
		fill_inner_value(work, now);
		if (bpf_map_update_elem(&nat_mappings, &work->mapping, &work->value, BPF_ANY))
			return GATEWAY_TABLE_FULL;
	}
	error = take_port(work, seen, plan->to_src_port_be, now);
	return !error ? GATEWAY_REASON_NONE : error == LINE_EXISTS ? GATEWAY_END_TAKEN : GATEWAY_TABLE_FULL;
}
#endif
