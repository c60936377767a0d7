/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the RETURN_TO_SENDER option (contracts/wire.md): the first droplet on a packet's way says where it set out, so that the
 * droplet of its destination learns the way back. Only what goes over a hop pays for it, and only there.
 */
#ifndef MIZAR_ORIGIN_H
#define MIZAR_ORIGIN_H
#include "notice.h"
#include "options.h"
#include "rewrite.h"
#include "superpacket.h"
#include "tunnel.h"

enum origin_constant {
	ORIGIN_IPV4 = 8,	/* bytes of the whole option */
	ORIGIN_IPV6 = 20,
};

/*
 * How many bytes of option this hop adds: some to an endpoint's frame that no hop has seen yet, which its agent has addressed to the
 * router. Where they do not fit, the frame goes on saying so: the next hop would take this one for where it set out. `from`:
 * slot of the droplet that it came from. A function of its own for the verifier.
 */
__attribute__((noinline)) int origin_bytes(struct frame_md *ctx, const struct packet *packet, const struct outer *outer,
					   const struct options *options, uint32_t from)
{
	struct droplet *droplet = bpf_map_lookup_elem(&droplets, &from);
	struct ethhdr *eth;
	uint32_t bytes;

	if (!packet || !outer || !options || !droplet || outer->control || options->present & HAS_ORIGIN)
		return 0;
	eth = (void *)(long)ctx->data + (packet->inner_at & 0x1ff);
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end || !is_router_mac(eth->h_dest) ||
	    is_router_mac(eth->h_source) || is_service_mac(eth->h_source))
		return 0;
	bytes = is_ipv6(droplet->addr) ? ORIGIN_IPV6 : ORIGIN_IPV4;
	if (!outer->partial && outer->option_bytes + bytes <= OPTION_BYTES &&
	    (!packet->mtu || longest_bytes(ctx, packet) + bytes <= packet->mtu + ETH_HLEN))
		return bytes;
	untold_mac(eth->h_dest);
	return 0;
}

/* The option, `at` bytes into the frame, where translate() has made room for it. `from`: slot of the droplet. A function of its
 * own for the verifier. */
__attribute__((noinline)) int write_origin(struct frame_md *ctx, uint32_t at, uint32_t from)
{
	struct droplet *droplet = bpf_map_lookup_elem(&droplets, &from);
	word32 *option = (void *)(long)ctx->data + (at & 0x7f);

	if (!droplet || (void *)option + ORIGIN_IPV6 > (void *)(long)ctx->data_end)
		return REASON_REWRITE_FAILED;
	if (is_ipv6(droplet->addr)) {
		option[0] = bpf_htonl(OPTION_CLASS << 16 | OPTION_RETURN_TO_SENDER << 8 | 4);
		copy_address(option + 1, droplet->addr);
	} else {
		option[0] = bpf_htonl(OPTION_CLASS << 16 | OPTION_RETURN_TO_SENDER << 8 | 1);
		option[1] = address_ipv4_be(droplet->addr);
	}
	return REASON_NONE;
}

/* At the end of the way: for the daemon, which learns from it or not. A service lives on no one droplet. `flow`: its hash. */
__attribute__((noinline)) int notice_origin(const struct packet *packet, const struct options *options, uint32_t flow)
{
	struct notice *notice;

	if (!packet || !options || !(options->origin[0] | options->origin[1] | options->origin[3]))
		return 0;	/* not told, in either family */
	/* The answers of the flow have slots of their own, mostly: notice_unknown() is not to be silenced by this. */
	if (!may_notice(packet->vpc_slot, ~flow))
		return 0;
	notice = reserve_notice(NOTICE_ORIGIN, packet->to.vni);
	if (!notice)
		return 0;
	copy_address(notice->src, packet->src);
	copy_address(notice->dst, packet->to.addr);
	copy_address(notice->droplet, options->origin);
	bpf_ringbuf_submit(notice, 0);
	return 0;
}
#endif
