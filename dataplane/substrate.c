/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * substrate: tc ingress of the data plane's end of the pair into the host's own stack; sees all that the stack sends to
 * endpoints. It lets in what is for an endpoint of this droplet, and comes from where that one's network has a route to.
 */
#include "lib/bypass.h"
#include "lib/extensions.h"
#include "lib/function_agent.h"
#include "lib/limit.h"
#include "lib/network_acl.h"
#include "lib/policy.h"
#include "lib/proxy.h"
#include "lib/routes.h"
#include "lib/substrate.h"
#include "lib/verdict.h"
#include "lib/shaper.h"

/* The endpoint that the stack's route is for, if it is here still. */
static __always_inline struct endpoint *find_local(struct packet *packet)
{
	uint32_t *vni = bpf_map_lookup_elem(&substrate_endpoints, packet->to.addr);
	struct endpoint *endpoint;

	if (!vni)
		return NULL;
	packet->to.vni = *vni;
	endpoint = bpf_map_lookup_elem(&endpoints, &packet->to);
	return endpoint && endpoint->ifindex && !is_proxy(endpoint->ifindex) ? endpoint : NULL;
}

static __always_inline __must_check enum drop_reason bring_in(struct __sk_buff *skb, struct packet *packet,
							      uint64_t *receiver, int *verdict)
{
	struct cursor cursor;
	struct inner inner;
	struct endpoint *endpoint;
	enum drop_reason reason;

	if (skb->data_end - skb->data < PULLED && skb->data_end - skb->data < skb->len)
		bpf_skb_pull_data(skb, skb->len < PULLED ? skb->len : PULLED);
	cursor = (struct cursor){
		.at = (void *)(long)skb->data,
		.end = (void *)(long)skb->data_end,
		.left = packet->length,
	};
	reason = parse_inner(skb, &cursor, packet, &inner);
	if (reason)
		return reason;
	if (skb->vlan_present || (inner.kind != INNER_IPV4 && inner.kind != INNER_IPV6))
		return REASON_SUBSTRATE_DESTINATION;
	endpoint = find_local(packet);
	if (!endpoint)
		return REASON_SUBSTRATE_DESTINATION;
	packet->vpc_slot = endpoint->vpc_slot;
	/* One endpoint does not come to another's by way of the host, whatever their tables say. */
	if (action_for(packet->src, endpoint->network) != ROUTE_SUBSTRATE ||
	    bpf_map_lookup_elem(&substrate_endpoints, packet->src))
		return REASON_SUBSTRATE_SOURCE;
	if (takes_tunnel(endpoint))
		return REASON_BYPASS_SUBSTRATE;
	if (has_acls(packet->vpc_slot)) {
		const struct route route = { .step = STEP_DELIVER };

		reason = (enum drop_reason)cross_skb(skb, packet, acl_who(packet->to.vni, &route, HOOK_SUBSTRATE));
		if (reason)
			return reason;
	}
	if (is_policed(endpoint, false)) {
		uint64_t who = policy_who(endpoint->slot, POLICY_INGRESS, 0, HOOK_SUBSTRATE);

		reason = (enum drop_reason)police_skb(skb, packet, who);
		if (reason)
			return reason;
	}
	reason = decrement_ttl(&inner);
	if (!reason && is_limited(endpoint, false))
		reason = (enum drop_reason)limit_skb(skb, packet, (uint64_t)endpoint->slot << LIMIT_WHO_RECEIVER);
	if (reason)
		return reason;
	address_from_router(inner.eth, endpoint);
	count_delivered(packet, endpoint->slot);
	*receiver = at_endpoint(endpoint->slot, endpoint->ifindex);
	*verdict = hand_over_shaped(skb, endpoint->ifindex, endpoint->flags, endpoint->slot, is_limited(endpoint, false));
	return REASON_NONE;
}

SEC("tc")
int substrate(struct __sk_buff *skb)
{
	struct packet packet = {
		.length = skb->len,
		.packets = skb->gso_segs ? skb->gso_segs : 1,
	};
	int verdict = TC_ACT_SHOT;
	uint64_t receiver = 0;
	enum drop_reason reason = bring_in(skb, &packet, &receiver, &verdict);

	if (reason)
		return refuse_substrate(skb, reason, &packet);
	if (are_for(receiver >> 32, ENDPOINT_INGRESS_STAGE) &&
	    enter_functions(skb, &packet, NULL, ENDPOINT_INGRESS_STAGE, receiver))
		bpf_tail_call_static(skb, &function_tc, ENDPOINT_INGRESS_STAGE);
	return verdict;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
