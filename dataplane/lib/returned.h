/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns frames that come back: Geneve with the O bit and no CONTROL option is a frame that this droplet had sent to what it
 * took for the endpoint's host (contracts/wire.md, "Returned frames"). What was learned is out of use from here on, and
 * the frame sets out anew, so that nothing is lost.
 */
#ifndef MIZAR_RETURNED_H
#define MIZAR_RETURNED_H
#include "locate.h"
#include "notice.h"

/*
 * `sender`: slot of the droplet that it came from. Makes it again what the endpoint's agent would send over the hops. Believed is only what this droplet can see for itself: that
 * it learned to send there, that the sender is one of its endpoints, or that its own table has another host by now.
 */
static __always_inline __must_check enum drop_reason take_back(const struct packet *packet, const struct inner *inner,
							       uint32_t sender)
{
	struct endpoint *to = bpf_map_lookup_elem(&endpoints, &packet->to), *from;
	struct endpoint_key key = { .vni = packet->to.vni };
	bool learned = to && to->flags & ENDPOINT_LEARNED, there = to && to->droplet == sender;

	/* Another system's, which goes to the host's stack as it came. */
	if (!bpf_map_lookup_elem(&vpcs, &packet->to.vni))
		return REASON_UNKNOWN_VNI;
	/* For an appliance: such a frame is never given back, and must not go on past the appliance. */
	if (is_appliance_mac(inner->eth->h_source))
		return REASON_RETURNED_STRANGE;
	if (learned && there && !(to->flags & ENDPOINT_GONE)) {
		to->flags |= ENDPOINT_GONE;
		raise_endpoint_version(&packet->to);
		notice_packet(NOTICE_GONE, packet);
	}
	if (to && !learned)
		return there ? REASON_ENDPOINT_UNKNOWN : REASON_NONE;
	copy_address(key.addr, packet->src);
	from = bpf_map_lookup_elem(&endpoints, &key);
	if (from && from->ifindex)
		copy_mac(inner->eth->h_source, from->mac);
	else if (learned && there)
		service_mac(inner->eth->h_source);
	else
		return REASON_RETURNED_STRANGE;
	router_mac(inner->eth->h_dest);
	return REASON_NONE;
}
#endif
