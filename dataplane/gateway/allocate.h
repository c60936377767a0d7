/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns how a connection begins. The entry of the way back is inserted where there is none: that this succeeds is what makes a
 * port free, for one destination, on all CPUs at once. Then comes the entry of the way there. Nothing that lives is ever evicted;
 * what has outlived its time-out is taken over where it stands in the way.
 */
#ifndef MIZAR_GATEWAY_ALLOCATE_H
#define MIZAR_GATEWAY_ALLOCATE_H
#include "mix.h"
#include "plan.h"
#include "nat.h"
#include "remove.h"

static __always_inline uint64_t fold_address(const void *mapped, bool six)
{
	const wire32 *words = mapped;

	if (!six)
		return bpf_ntohl(words[3]);
	return ((uint64_t)bpf_ntohl(words[0]) << 32 | bpf_ntohl(words[1])) ^
	       ((uint64_t)bpf_ntohl(words[2]) << 32 | bpf_ntohl(words[3]));
}

/* contracts/gateway.h, nat_pools. */
static __always_inline void choose_ports(struct port_search *search, const struct begin_plan *plan, bool six, uint32_t meta,
					 bool mapped)
{
	uint64_t ports = (uint64_t)meta << 32 | (uint32_t)bpf_ntohs(plan->src_port_be) << 16;
	uint64_t h = gateway_mix(fold_address(plan->src, six));

	if (!mapped) {
		h ^= fold_address(plan->dst, six);
		ports |= bpf_ntohs(plan->dst_port_be);
	}
	h = gateway_mix(gateway_mix(gateway_mix(h) ^ ports) ^ plan->protocol);
	search->first = plan->first_port;
	search->count = plan->last_port - plan->first_port + 1;
	search->start = (uint32_t)(h >> 32) % search->count;
	search->stride = search->count > PORT_TRIES ? 1 + (uint32_t)h % (search->count / PORT_TRIES) : 1;
}

/* What the way back becomes, and under what it comes; the port on the outside is still to be filled in. A function of its own, as
 * make_plan() is, so that its stack is free again for what comes deeper. */
static __noinline void fill_back(struct begin_work *work, const struct connection_seen *seen, uint32_t now,
				      uint16_t rules)
{
	const struct begin_plan *plan = &work->plan;
	struct connection_tail *tail;
	uint64_t sum;

	if (seen->family == 4) {
		__builtin_memset(&work->back4, 0, sizeof(work->back4));
		work->key4.meta = plan->meta;
		work->key4.src_be = ((wire32 *)plan->to_dst)[3];
		work->key4.dst_be = ((wire32 *)plan->to_src)[3];
		work->key4.src_port_be = plan->to_dst_port_be;
		work->key4.dst_port_be = plan->to_src_port_be;
		*(uint32_t *)&work->key4.protocol = plan->protocol;
		work->back4.meta = seen->key4.meta;
		work->back4.src_be = seen->key4.dst_be;
		work->back4.dst_be = seen->key4.src_be;
		work->back4.src_port_be = plan->dst_port_be;
		work->back4.dst_port_be = plan->src_port_be;
		sum = change32(work->key4.src_be, seen->key4.dst_be) + change32(work->key4.dst_be, seen->key4.src_be);
		tail = tail4(&work->back4);
	} else {
		__builtin_memset(&work->back6, 0, sizeof(work->back6));
		work->key6.meta = plan->meta;
		copy16(work->key6.src, plan->to_dst);
		copy16(work->key6.dst, plan->to_src);
		work->key6.src_port_be = plan->to_dst_port_be;
		work->key6.dst_port_be = plan->to_src_port_be;
		*(uint64_t *)&work->key6.protocol = plan->protocol;
		work->back6.meta = seen->key6.meta;
		copy16(work->back6.src, seen->key6.dst);
		copy16(work->back6.dst, seen->key6.src);
		work->back6.src_port_be = plan->dst_port_be;
		work->back6.dst_port_be = plan->src_port_be;
		sum = change128(plan->to_dst, seen->key6.dst) + change128(plan->to_src, seen->key6.src);
		tail = tail6(&work->back6);
	}
	tail->stamp = now;
	tail->tenant = plan->tenant;
	tail->flags = plan->connection;
	tail->rules = rules;
	tail->address_sum = folded(sum);
}

/* whole_sum of a change of addresses and ports; of ICMP the id counts once, and of ICMP for IPv4 no address does. */
static __always_inline uint16_t whole_sum(uint16_t address_sum, uint8_t protocol, uint16_t src_be, uint16_t to_src_be, uint16_t dst_be,
					  uint16_t to_dst_be)
{
	uint64_t sum = change16(src_be, to_src_be);

	if (protocol != IPPROTO_ICMP)
		sum += address_sum;
	if (!is_query(protocol))
		sum += change16(dst_be, to_dst_be);
	return folded(sum);
}

/* The way back comes to this port: takes it when it is free. 0, or what the insertion says. */
static __noinline int take_port(struct begin_work *work, const struct connection_seen *seen, uint32_t port_be, uint32_t now)
{
	const struct begin_plan *plan = &work->plan;
	const bool six = seen->family == 6;
	uint16_t back_src_be = is_query(plan->protocol) ? port_be : plan->to_dst_port_be;
	int error;

	if (six) {
		work->key6.dst_port_be = port_be;
		work->key6.src_port_be = back_src_be;
		work->back6.whole_sum = whole_sum(work->back6.address_sum, plan->protocol, back_src_be, plan->dst_port_be, port_be,
						  plan->src_port_be);
		error = insert6(&work->key6, &work->back6);
		if (error == LINE_EXISTS && remove_outlived6(&work->key6, &work->other6, now))
			error = insert6(&work->key6, &work->back6);
	} else {
		work->key4.dst_port_be = port_be;
		work->key4.src_port_be = back_src_be;
		work->back4.whole_sum = whole_sum(work->back4.address_sum, plan->protocol, back_src_be, plan->dst_port_be, port_be,
						  plan->src_port_be);
		error = insert4(&work->key4, &work->back4);
		if (error == LINE_EXISTS && remove_outlived4(&work->key4, &work->other4, now))
			error = insert4(&work->key4, &work->back4);
	}
	return error;
}

struct port_tries {
	struct begin_work *work;
	const struct connection_seen *seen;
};

static __always_inline uint32_t port_of(const struct port_search *search, uint32_t number)
{
	return search->first + (search->start + number * search->stride) % search->count;
}

static long try_port(uint32_t number, struct port_tries *tries)
{
	struct port_search *search = &tries->work->search;

	search->error = take_port(tries->work, tries->seen, bpf_htons(port_of(search, number)), search->now);
	return search->error != LINE_EXISTS;	/* 1: enough */
}

/* A port of the pool for this destination. */
static __always_inline enum gateway_reason find_port(struct begin_work *work, const struct connection_seen *seen, uint32_t now)
{
	uint32_t own = bpf_ntohs(work->plan.src_port_be), tries = PORT_TRIES;
	struct port_search *search = &work->search;
	struct port_tries all = { .work = work, .seen = seen };

	search->now = now;
	search->error = LINE_EXISTS;
	choose_ports(search, &work->plan, seen->family == 6, seen->family == 6 ? seen->key6.meta : seen->key4.meta, false);
	if (own >= work->plan.first_port && own <= work->plan.last_port) {
		search->error = take_port(work, seen, work->plan.src_port_be, now);
		tries--;
	}
	if (search->error == LINE_EXISTS)
		bpf_loop(search->count < PORT_TRIES ? search->count : tries, try_port, &all, 0);
	return !search->error ? GATEWAY_REASON_NONE :
	       search->error == LINE_EXISTS ? GATEWAY_PORTS_EXHAUSTED :
					       GATEWAY_TABLE_FULL;
}

#include "mapping.h"

static __always_inline struct nat_tenant *tenant_of(struct begin_work *work)
{
	const struct nat_settings *set;
	struct nat_tenant *tenant = bpf_map_lookup_elem(&nat_tenants, &work->plan.tenant);

	if (tenant)
		return tenant;
	__builtin_memset(&work->fresh, 0, sizeof(work->fresh));
	set = settings();
	work->fresh.quota = set && set->quota ? set->quota : QUOTA_NONE;
	bpf_map_update_elem(&nat_tenants, &work->plan.tenant, &work->fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&nat_tenants, &work->plan.tenant);
}

/* The entry of the way there, from what the way back has become; it goes to seen->entry too. */
static __noinline int insert_there(struct xdp_md *ctx, struct begin_work *work, struct connection_seen *seen)
{
	const uint8_t protocol = work->plan.protocol;
	struct connection_tail *tail;
	int error;

	if (seen->family == 6) {
		seen->entry6 = work->back6;
		seen->entry6.meta = work->key6.meta;
		copy16(seen->entry6.src, work->key6.dst);
		copy16(seen->entry6.dst, work->key6.src);
		seen->entry6.src_port_be = work->key6.dst_port_be;
		seen->entry6.dst_port_be = work->key6.src_port_be;
		seen->entry6.address_sum = folded(change128(seen->key6.src, work->key6.dst) +
						  change128(seen->key6.dst, work->key6.src));
		tail = tail6(&seen->entry6);
	} else {
		seen->entry4 = work->back4;
		seen->entry4.meta = work->key4.meta;
		seen->entry4.src_be = work->key4.dst_be;
		seen->entry4.dst_be = work->key4.src_be;
		seen->entry4.src_port_be = work->key4.dst_port_be;
		seen->entry4.dst_port_be = work->key4.src_port_be;
		seen->entry4.address_sum = folded(change32(seen->key4.src_be, work->key4.dst_be) +
						  change32(seen->key4.dst_be, work->key4.src_be));
		tail = tail4(&seen->entry4);
	}
	tail->whole_sum = seen->family == 6 ?
				  whole_sum(tail->address_sum, protocol, seen->key6.src_port_be, seen->entry6.src_port_be,
					    seen->key6.dst_port_be, seen->entry6.dst_port_be) :
				  whole_sum(tail->address_sum, protocol, seen->key4.src_port_be, seen->entry4.src_port_be,
					    seen->key4.dst_port_be, seen->entry4.dst_port_be);
	tail->flags |= CONNECTION_ORIGINAL;
	if (protocol == IPPROTO_TCP && seen->tcp_flags & TCP_SYN) {
		tail->window = seen->tcp_window;
		note_syn(ctx, seen, tail);
	}
	error = seen->family == 6 ? insert6(&seen->key6, &seen->entry6) :
				    insert4(&seen->key4, &seen->entry4);
	return error;
}

static __always_inline enum gateway_reason begin_within_quota(struct xdp_md *ctx, struct begin_work *work,
							      struct connection_seen *seen, uint32_t now)
{
	enum gateway_reason reason;
	int error;

	if (work->plan.pool) {
		reason = work->plan.flags & POOL_MAPPING ? find_mapping(work, seen, now) : find_port(work, seen, now);
		if (reason)
			return reason;
	} else {
		error = take_port(work, seen, work->plan.to_src_port_be, now);
		if (error)
			return error == LINE_EXISTS ? GATEWAY_END_TAKEN : GATEWAY_TABLE_FULL;
	}
	error = insert_there(ctx, work, seen);
	if (!error)
		return GATEWAY_REASON_NONE;
	if (seen->family == 6)
		remove6(&work->key6);
	else
		remove4(&work->key4);
	return error == LINE_EXISTS ? GATEWAY_END_TAKEN : GATEWAY_TABLE_FULL;
}

/* A function of its own for the verifier, which looks at it once. What it leaves in seen->entry is what the packet becomes. */
__noinline int connection_begin(struct xdp_md *ctx, struct gateway_packet *p, struct connection_seen *seen)
{
	const struct nat_settings *set = settings();
	uint32_t first = 0, now;
	struct begin_work *work = bpf_map_lookup_elem(&gateway_work, &first);
	struct nat_tenant *tenant;
	enum gateway_reason reason;

	if (!p || !seen || !work || !set)
		return GATEWAY_TABLE_FULL;
	now = now_tick(p);
	/* One that is still there has outlived its time: connection_look() found none. */
	if (seen->family == 6)
		remove_outlived6(&seen->key6, &work->other6, now);
	else
		remove_outlived4(&seen->key4, &work->other4, now);
	if (!make_plan(work, seen))
		return GATEWAY_NO_RULE;
	tenant = tenant_of(work);
	if (!tenant)
		return GATEWAY_TABLE_FULL;
	if (__sync_fetch_and_add(&tenant->in_use, 1) >= tenant->quota) {
		reason = GATEWAY_QUOTA_EXCEEDED;
	} else {
		fill_back(work, seen, now, set->rules);
		reason = begin_within_quota(ctx, work, seen, now);
	}
	if (!reason) {
		__sync_fetch_and_add(&tenant->begun, 1);
		if (set->reports)
			tell_report(seen, GATEWAY_EVENT_BEGUN);
		return GATEWAY_REASON_NONE;
	}
	__sync_fetch_and_add(&tenant->in_use, -1);
	__sync_fetch_and_add(reason == GATEWAY_QUOTA_EXCEEDED ? &tenant->refused : &tenant->exhausted, 1);
	if (reason != GATEWAY_END_TAKEN && tenant->told != now) {
		tenant->told = now;
		tell_refused(seen, work->plan.tenant, reason);
	}
	return reason;
}
#endif
