/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gateway_sweep: ends the connections in lines whose time is up (mizar/kernel/gateway_keeper.py). The process runs it by a system call, a
 * part of the lines at a time, so that no CPU is held for long; a connection is removed by whoever has marked it as gone, as in
 * gateway_keeper.c and remove.h.
 */
#include <linux/errno.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include "gateway/time_out.h"

GATEWAY_MAP(BPF_MAP_TYPE_HASH, nat_tenants, uint32_t, struct nat_tenant, 1, BPF_F_NO_PREALLOC);
#include "gateway/leave_tenant.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} gateway_swept SEC(".maps");

GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, gateway_sweep_keys, uint32_t, struct gateway_sweep_key, 512, 0);

enum sweep_constant {
	SWEEP_LINES = 1 << 20,	/* at most, of one order */
	SWEEP_KEYS = 512,
	GONE_BIT = CONNECTION_GONE << 16,
};

struct sweep {
	struct gateway_sweep_order order;
	struct nat_settings limits;
};

static __always_inline uint32_t time_up(const struct sweep *sweep, uint8_t protocol, uint16_t flags)
{
	return time_out(&sweep->limits, protocol, flags);
}

static __always_inline void key_of4(struct connection4_key *key, const struct connection4_line *line, uint8_t protocol)
{
	key->meta = line->meta;
	key->src_be = line->src_be;
	key->dst_be = line->dst_be;
	key->src_port_be = line->src_port_be;
	key->dst_port_be = line->dst_port_be;
	key->protocol = protocol;
}

static __always_inline void key_of6(struct connection6_key *key, const struct connection6_line *line, uint8_t protocol)
{
	key->meta = line->meta;
	__builtin_memcpy(key->src, line->src, 16);
	__builtin_memcpy(key->dst, line->dst, 16);
	key->src_port_be = line->src_port_be;
	key->dst_port_be = line->dst_port_be;
	key->protocol = protocol;
}

/* Of the other direction. */
static __always_inline void key_back4(struct connection4_key *key, const struct connection4 *entry, uint8_t protocol)
{
	key->meta = entry->meta;
	key->src_be = entry->dst_be;
	key->dst_be = entry->src_be;
	key->src_port_be = entry->dst_port_be;
	key->dst_port_be = entry->src_port_be;
	key->protocol = protocol;
}

static __always_inline void key_back6(struct connection6_key *key, const struct connection6 *entry, uint8_t protocol)
{
	key->meta = entry->meta;
	__builtin_memcpy(key->src, entry->dst, 16);
	__builtin_memcpy(key->dst, entry->src, 16);
	key->src_port_be = entry->dst_port_be;
	key->dst_port_be = entry->src_port_be;
	key->protocol = protocol;
}

#define IP_VERSION 4
#include "gateway/sweep_of.h"
#undef IP_VERSION
#define IP_VERSION 6
#include "gateway/sweep_of.h"
#undef IP_VERSION

SEC("syscall")
int gateway_sweep(struct gateway_sweep_order *order)
{
	struct sweep sweep = { .order = *order };
	uint32_t lines = sweep.order.lines;

	sweep.order.ended = 0;
	sweep.limits.udp = order->udp;
	sweep.limits.icmp = order->icmp;
	sweep.limits.tcp = order->tcp;
	sweep.limits.tcp_transitory = order->tcp_transitory;
	if (lines > SWEEP_LINES || sweep.order.ends > SWEEP_KEYS)
		return -EINVAL;
	if (!lines && sweep.order.version == 4)
		bpf_loop(sweep.order.ends, sweep_far4, &sweep, 0);
	else if (!lines)
		bpf_loop(sweep.order.ends, sweep_far6, &sweep, 0);
	else if (sweep.order.version == 4)
		bpf_loop(lines, sweep_line4, &sweep, 0);
	else
		bpf_loop(lines, sweep_line6, &sweep, 0);
	order->place = sweep.order.place;
	order->ended = sweep.order.ended;
	return 0;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
