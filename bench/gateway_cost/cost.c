/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What bench/gateway_cost.py runs: each run writes the next of many flows into the frame, and is redirected; with TRANSLATE
 * it becomes what its connection says in between, with KERNEL the kernel's conntrack is asked for it and nothing else done. The
 * difference is the cost. LIVE: of frames on a wire, which go back.
 */
#include "gateway/connection.h"

#ifdef KERNEL
/* As the kernel has them; what stands in them is not used but for bpf_ct_opts (16 bytes). */
struct nf_conn {
	uint64_t unused;
};

struct nf_conn___init {
	uint64_t unused;
};

struct bpf_ct_opts {
	int32_t netns_id;
	int32_t error;
	uint8_t l4proto;
	uint8_t dir;
	uint8_t reserved[6];
};

extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *ctx, struct bpf_sock_tuple *tuple, uint32_t tuple__sz,
					 struct bpf_ct_opts *opts, uint32_t opts__sz) __attribute__((section(".ksyms")));
extern struct nf_conn___init *bpf_xdp_ct_alloc(struct xdp_md *ctx, struct bpf_sock_tuple *tuple, uint32_t tuple__sz,
					       struct bpf_ct_opts *opts, uint32_t opts__sz)
	__attribute__((section(".ksyms")));
extern struct nf_conn *bpf_ct_insert_entry(struct nf_conn___init *conn) __attribute__((section(".ksyms")));
extern void bpf_ct_set_timeout(struct nf_conn___init *conn, uint32_t timeout) __attribute__((section(".ksyms")));
extern void bpf_ct_release(struct nf_conn *conn) __attribute__((section(".ksyms")));

/* The kernel's entry of the flow; one that is not there is made. */
static __always_inline bool kernel_knows(struct xdp_md *ctx, const uint8_t *eth, uint8_t protocol)
{
	struct bpf_ct_opts opts = { .netns_id = -1, .l4proto = protocol };
	struct bpf_sock_tuple tuple = {};
	struct nf_conn___init *made;
	struct nf_conn *found;

	tuple.ipv4.saddr = *(const wire32 *)(eth + 26);
	tuple.ipv4.daddr = *(const wire32 *)(eth + 30);
	tuple.ipv4.sport = *(const wire16 *)(eth + 34);
	tuple.ipv4.dport = *(const wire16 *)(eth + 36);
	found = bpf_xdp_ct_lookup(ctx, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));
	if (!found) {
		made = bpf_xdp_ct_alloc(ctx, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));
		if (!made)
			return false;
		bpf_ct_set_timeout(made, 600000);
		found = bpf_ct_insert_entry(made);
		if (!found)
			return false;
	}
	bpf_ct_release(found);
	return true;
}
#endif

struct bench_flows {
	uint64_t next;
	uint32_t mask;		/* flows - 1; a power of two */
	uint32_t first;		/* of these flows */
	uint64_t refused;
	uint32_t protocol;
	uint32_t few;		/* 1: all go to one destination */
};

GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, bench_flows, uint32_t, struct bench_flows, 1, 0);

enum bench_constant {
	BENCH_META = 5,
	BENCH_ETH = 14,
	BENCH_L4 = 34,
	BENCH_BYTES = 54,
};

SEC("xdp")
int cost(struct xdp_md *ctx)
{
	uint8_t *eth = (uint8_t *)(long)ctx->data;
	struct bench_flows *flows;
	uint32_t zero = 0, flow;
	uint64_t spread;
#ifdef TRANSLATE
	struct connection_seen seen;
	struct gateway_packet p = {};
#endif

	flows = bpf_map_lookup_elem(&bench_flows, &zero);
	if (!flows || eth + BENCH_BYTES > (uint8_t *)(long)ctx->data_end)
		return XDP_ABORTED;
	/* An odd factor: all flows once, in an order that no cache foresees. */
	flow = ((uint32_t)flows->next++ * 2654435761u & flows->mask) + flows->first;
	spread = gateway_mix(flow);
	*(wire32 *)(eth + 26) = bpf_htonl(0x0a000000 | (flow & 0xffff));
	*(wire32 *)(eth + 30) = bpf_htonl(flows->few ? 0xc6120001 : 0xc6120000 | (spread & 0x1ffff));
	*(wire16 *)(eth + 34) = bpf_htons(32768 + (flow >> 16) * 61 % 28000 + ((flow & 0xffff) * 7) % 61);
	*(wire16 *)(eth + 36) = bpf_htons(443);
	*(wire16 *)(eth + 24) = 0x1234;
	*(wire16 *)(eth + (flows->protocol == IPPROTO_TCP ? 50 : 40)) = 0x4321;
#ifdef TRANSLATE
	p.length = bpf_xdp_get_buff_len(ctx);
	p.meta = BENCH_META;
	if (connection_look(ctx, &p, &seen) == CONNECTION_INVALID || connection_nat(ctx, &p, &seen, true)) {
		flows->refused++;
		return XDP_DROP;
	}
#endif
#ifdef KERNEL
	if (!kernel_knows(ctx, eth, flows->protocol)) {
		flows->refused++;
		return XDP_DROP;
	}
#endif
#ifdef LIVE
	return XDP_TX;
#else
	return bpf_redirect(1, 0);
#endif
}

char program_license[] SEC("license") = "Dual BSD/GPL";
