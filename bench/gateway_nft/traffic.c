/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What bench/gateway_nft.py loads: the generator (GENERATE, run on live frames), the sink (SINK), and a gateway that only
 * sends frames back (BARE). Live frames come as the last run left them, so every run writes all headers.
 */
#include <stdint.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum {
	HEADERS = 96,		/* outer and inner, of 92, and padding; a multiple of 8 */
	OUTER_PORT = 34,	/* the source port tells flows apart, as RFC 7348 wants it */
	VNI = 46,
	INNER_SOURCE = 76,
	INNER_PORT = 84,
	INNER_CHECKSUM = 90,
};

struct traffic {
	uint64_t next;
	uint32_t mask;		/* flows - 1; a power of two */
	uint32_t sum;		/* the inner checksum with source port 0, not inverted */
	uint32_t first_port;
	uint32_t vni;		/* of what the sink takes, as it stands in the frame: shifted by 8, big-endian */
	uint32_t source;	/* the same: its inner address, big-endian */
	uint32_t padding;
	uint64_t headers[HEADERS / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, uint32_t);
	__type(value, struct traffic);
} traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, uint32_t);
	__type(value, uint64_t);	/* at the sink, as it should be */
} arrived SEC(".maps");

#ifdef GENERATE
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	uint32_t zero = 0, flow, port, sum;
	struct traffic *wanted = bpf_map_lookup_elem(&traffic, &zero);

	if (!wanted || data + HEADERS > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	/* An odd factor: all flows once, none twice in a row, which would let GRO gather them. */
	flow = (uint32_t)wanted->next++ * 2654435761u & wanted->mask;
	for (int word = 0; word < HEADERS / 8; word++)
		((uint64_t *)data)[word] = wanted->headers[word];
	port = wanted->first_port + flow;
	sum = wanted->sum + port;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*(uint16_t *)(data + OUTER_PORT) = bpf_htons(49152 + flow);
	*(uint16_t *)(data + INNER_PORT) = bpf_htons(port);
	*(uint16_t *)(data + INNER_CHECKSUM) = sum == 0xffff ? 0xffff : bpf_htons((uint16_t)~sum);
	return XDP_TX;
}
#endif

#ifdef SINK
static inline __attribute__((always_inline)) void take(void *data, void *end)
{
	uint32_t zero = 0;
	struct traffic *wanted = bpf_map_lookup_elem(&traffic, &zero);
	uint64_t *sum = bpf_map_lookup_elem(&arrived, &zero);

	if (!wanted || !sum || data + INNER_PORT > end)
		return;
	if (*(uint32_t *)(data + VNI) == wanted->vni && *(uint32_t *)(data + INNER_SOURCE) == wanted->source)
		__sync_fetch_and_add(sum, 1);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	take((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	return XDP_DROP;
}
#endif

#ifdef BARE
SEC("xdp")
int bare(struct xdp_md *ctx)
{
	return bpf_redirect(ctx->ingress_ifindex, 0);
}
#endif

char program_license[] SEC("license") = "Dual BSD/GPL";
