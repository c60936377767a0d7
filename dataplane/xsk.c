/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * xsk: XDP of an interface behind which a function works in user space (mizar/kernel/xsk.py). Tunnel packets, or all that
 * comes in, go to the AF_XDP socket of the queue; what has no socket, and all else, goes on to the namespace's own stack. It
 * shares nothing with the programs of a droplet: a function brings it along, and takes it away again.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "lib/layout.h"

enum xsk_limit {
	QUEUES = 64,
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES);
	__type(key, uint32_t);
	__type(value, uint32_t);
} sockets SEC(".maps");

const volatile struct xsk_config config SEC(".rodata.config");

/* Behind an IP header without options or extensions, as droplets write it. */
static __always_inline bool is_tunnel_port(const struct udphdr *udp, const void *end)
{
	return (const void *)(udp + 1) <= end && (udp->dest == bpf_htons(GENEVE_PORT) || udp->dest == bpf_htons(VXLAN_PORT));
}

static __always_inline bool is_tunnel(const struct xdp_md *ctx)
{
	const void *end = (void *)(long)ctx->data_end;
	const struct ethhdr *eth = (void *)(long)ctx->data;
	const struct iphdr *ip4 = (const void *)(eth + 1);
	const struct ipv6hdr *ip6 = (const void *)(eth + 1);

	if ((const void *)(ip4 + 1) > end)
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return *(const uint8_t *)ip4 == 0x45 && ip4->protocol == IPPROTO_UDP && !(ip4->frag_off & bpf_htons(0x1fff)) &&
		       is_tunnel_port((const void *)(ip4 + 1), end);
	return eth->h_proto == bpf_htons(ETH_P_IPV6) && (const void *)(ip6 + 1) <= end && ip6->nexthdr == IPPROTO_UDP &&
	       is_tunnel_port((const void *)(ip6 + 1), end);
}

SEC("xdp")
int xsk(struct xdp_md *ctx)
{
	return config.everything || is_tunnel(ctx) ? (int)bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS) :
						     XDP_PASS;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
