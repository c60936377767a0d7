/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the VIP option (contracts/wire.md): on the way to the member of a load balancer that says so, the inner destination is the
 * member, and the option bears what the client wrote. The droplet that chose writes both; the member's checks them by its own tables
 * and writes the client's words back, so that all behind it is as without. Included by transit.c alone; what bears no option, and
 * is for no such balancer, pays one look at what was read anyway.
 */
#ifndef MIZAR_VIP_OPTION_H
#define MIZAR_VIP_OPTION_H
#include "checksum.h"
#include "choose.h"
#include "options.h"
#include "outer.h"
#include "rewrite.h"
#include "tunnel.h"
#include "unsure.h"

enum vip_constant {
	VIP_IPV4 = 12,	/* bytes of the whole option */
	VIP_IPV6 = 24,
	VIP_IN_FRAME = 0xff,	/* where a checksum or a port of an inner frame may be, at most; as the verifier may not see */
};

static __always_inline uint32_t vip_bytes(bool v4)
{
	return v4 ? VIP_IPV4 : VIP_IPV6;
}

/* A word of the inner frame. NULL: it is not there. */
static __always_inline word16 *word_of(void *frame, const void *end, uint32_t at)
{
	word16 *word = frame + (at & VIP_IN_FRAME);

	return (void *)(word + 1) > end ? NULL : word;
}

/* Whether an skb's checksum seems to be left to hardware: as is_partial(), of the packet inside. */
static __always_inline bool is_unfinished(const struct ethhdr *eth, bool v4, const struct transport *t, uint16_t checksum)
{
	const struct iphdr *ip4 = (const void *)(eth + 1);
	const struct ipv6hdr *ip6 = (const void *)(eth + 1);
	uint64_t sum = bpf_htonl(t->protocol);

	if ((AT_XDP && !config.send_by_tc) || t->error || t->fragment)
		return false;
	if (v4) {
		sum += (uint64_t)ip4->saddr + ip4->daddr + bpf_htonl(bpf_ntohs(ip4->tot_len) - ip4->ihl * 4);
	} else {
		for (int i = 0; i < 4; i++)
			sum += (uint64_t)ip6->saddr.s6_addr32[i] + ip6->daddr.s6_addr32[i];
		sum += bpf_htonl(bpf_ntohs(ip6->payload_len));
	}
	return checksum && checksum == folded_sum(sum);
}

/*
 * work->packet.to.addr becomes work->address, and the port at the service's end work->other_port_be: of the packet, or of the one
 * that an ICMP error is about. A later fragment shows neither port nor checksum. Of an IPv4 error the header inside keeps its
 * sum, and ICMP's with it. Not 0: it cannot be. A function of its own for the verifier.
 */
__attribute__((noinline)) int exchange_destination(struct frame_md *ctx)
{
	struct service_work *work = service_work();
	const void *end = (void *)(long)ctx->data_end;
	const struct transport *t;
	uint64_t addresses, ports = 0;
	uint16_t *port;
	word16 *at;
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	void *frame;
	bool v4, shown;

	if (!work)
		return REASON_REWRITE_FAILED;
	t = &work->transport;
	v4 = work->kind == INNER_IPV4;
	frame = (void *)(long)ctx->data + (work->inner_at & 0x1ff);
	ip4 = frame + ETH_HLEN;
	ip6 = frame + ETH_HLEN;
	work->unsure = 0;
	if ((void *)(ip4 + 1) > end || (!v4 && (void *)(ip6 + 1) > end))
		return REASON_REWRITE_FAILED;
	addresses = address_change(v4, work->packet.to.addr, work->address);
	port = service_port_of(&work->transport.ports_be);
	shown = t->fragment != FRAGMENT_LATER;
	if (shown)
		ports = word_change(*port, work->other_port_be);
	if (t->error) {
		uint32_t header = t->embedded_at + (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
		word32 *source = frame + (t->embedded_at & VIP_IN_FRAME) + (v4 ? 12 : 8);

		if ((void *)source + (v4 ? 4 : 16) > end)
			return REASON_REWRITE_FAILED;
		if (v4) {
			at = word_of(frame, end, t->embedded_at + offsetof(struct iphdr, check));
			if (!at)
				return REASON_REWRITE_FAILED;
			*at = checksum_after(*at, addresses);
			*source = address_ipv4_be(work->address);
		} else {
			copy_address(source, work->address);
		}
		at = word_of(frame, end, header);	/* the packet went from the service */
		if (!at)
			return REASON_REWRITE_FAILED;
		*at = work->other_port_be;
		at = word_of(frame, end, t->embedded_at - ECHO_BYTES + 2);
		if (!at)
			return REASON_REWRITE_FAILED;
		*at = checksum_after(*at, v4 ? ports : addresses + addresses + ports);
	} else if (shown) {
		const bool tcp = t->protocol == IPPROTO_TCP;

		at = word_of(frame, end, t->checksum_at);
		if (!at)
			return REASON_REWRITE_FAILED;
		if (is_unfinished(frame, v4, t, *at)) {
			*at = folded_sum(*at + (uint64_t)folded_sum(addresses));
			work->unsure = folded_sum(2 * (uint64_t)folded_sum(addresses) + folded_sum(ports));
		} else if (tcp || *at) {
			*at = checksum_after(*at, addresses + ports);
			if (!tcp && !*at)
				*at = 0xffff;
		}
		at = word_of(frame, end, t->checksum_at - (tcp ? 14 : 4));
		if (!at)
			return REASON_REWRITE_FAILED;
		*at = work->other_port_be;
	}
	if (v4) {
		ip4->check = checksum_after(ip4->check, addresses);
		ip4->daddr = address_ipv4_be(work->address);
	} else {
		copy_address(&ip6->daddr, work->address);
	}
	return REASON_NONE;
}

/*
 * What exchange_destination() was not sure of is left to `deliver`, of the frame as it now is, whose inner one begins `inner_at`
 * bytes into it; or settled here, where tc itself sends it. Where frames must not be merged, the note says that instead.
 */
static __always_inline __must_check enum drop_reason leave_unsure(struct frame_md *ctx, uint32_t inner_at, bool sent)
{
	const struct service_work *work = service_work();
	struct handover *note;
	uint32_t sum;

	if (!work || !work->unsure)
		return REASON_NONE;
	sum = (inner_at + work->transport.checksum_at) << UNSURE_AT |
	      (work->transport.protocol == IPPROTO_UDP ? UNSURE_UDP : 0) | work->unsure;
	if (!AT_XDP && sent)
		return settle_sum((void *)ctx, sum) ? REASON_NONE : REASON_REWRITE_FAILED;
	note = (struct handover *)note_of(ctx);
	if (note && !note->serial) {
		note->serial = sum;
		note->flags |= HANDOVER_UNSURE;
	}
	return REASON_NONE;
}

/*
 * At the droplet that chose work->member: the packet becomes the member's own. `member` is what members has there; its address may be
 * another's for a moment, where its slot was given to another. exchange_destination() writes what is found here; neither calls the
 * other, for the stack. A function of its own for the verifier.
 */
__attribute__((noinline)) int address_to_member(void)
{
	struct service_work *work = service_work();
	const struct member_note *note;
	const struct endpoint *member;
	uint32_t slot;
	int target = TARGET_HIDDEN;

	if (!work)
		return REASON_REWRITE_FAILED;
	slot = work->member;
	note = bpf_map_lookup_elem(&member_notes, &slot);
	member = member_at(slot);
	if (!note || !member || !same_mac(note->mac, member->mac))
		return REASON_SERVICE_WITHOUT_MEMBER;
	copy_address(work->address, work->kind == INNER_IPV4 ? note->addr4 : note->addr6);
	if (is_zero(work->address))
		return REASON_SERVICE_WITHOUT_MEMBER;
	if (work->transport.fragment != FRAGMENT_LATER) {
		target = target_of(work);
		if (target < 0)
			return REASON_NO_LISTENER;
	}
	work->other_port_be = target;
	return REASON_NONE;
}

/* The option, where room has been made for it: behind Geneve's header, which is `at` bytes into the frame. A function of its own for
 * the verifier. */
__attribute__((noinline)) int write_vip(struct frame_md *ctx, uint32_t at)
{
	struct service_work *work = service_work();
	word32 *option = (void *)(long)ctx->data + (at & 0x7f) + sizeof(struct tunnel_header);
	uint16_t port[2] = {};

	if (!work || (void *)option + VIP_IPV6 > (void *)(long)ctx->data_end)
		return REASON_REWRITE_FAILED;
	if (work->transport.fragment != FRAGMENT_LATER)
		port[0] = *service_port_of(&work->transport.ports_be);
	option[1] = *(word32 *)port;
	if (work->kind == INNER_IPV4) {
		option[0] = bpf_htonl(OPTION_CLASS << 16 | OPTION_VIP << 8 | 2);
		option[2] = address_ipv4_be(work->packet.to.addr);
	} else {
		option[0] = bpf_htonl(OPTION_CLASS << 16 | OPTION_VIP << 8 | 5);
		copy_address(option + 2, work->packet.to.addr);
	}
	return REASON_NONE;
}

/* The member of the load balancer at `vip` that the frame is for: it lives here, and `inside` is its address. */
static __always_inline __must_check bool is_member_of(const struct endpoint_key *vip, const uint8_t *mac, const void *inside)
{
	const struct endpoint *service = bpf_map_lookup_elem(&endpoints, vip), *member;
	const struct member_note *note;
	struct member_key key = {};
	const uint32_t *slot;

	if (!service || !(service->flags & ENDPOINT_SCALED))
		return false;
	key.service = service->slot;
	copy_mac(key.mac, mac);
	slot = bpf_map_lookup_elem(&member_slots, &key);
	if (!slot)
		return false;
	note = bpf_map_lookup_elem(&member_notes, slot);
	member = member_at(*slot);
	return note && member && member->ifindex && member->flags & MEMBER_LISTENED &&
	       same_address(is_mapped(vip->addr) ? note->addr4 : note->addr6, inside);
}

/*
 * At the member's droplet: what the client wrote, in its place, of work->packet, whose options begin `begin` bytes into the frame and
 * have the VIP `at` bytes behind that. What no droplet could have written is refused. A function of its own for the verifier.
 */
__attribute__((noinline)) int restore_destination(struct frame_md *ctx, uint32_t vip_at, uint32_t words)
{
	struct service_work *work = service_work();
	const void *end = (void *)(long)ctx->data_end;
	const word32 *vip = (void *)(long)ctx->data + (vip_at & 0x1ff);
	struct inner inner = {};
	struct cursor cursor;
	struct listener *listener;
	uint16_t *port, target;

	if (!work || (words != 2 && words != 5) || !resume(work, (void *)(long)ctx->data, (void *)end, &cursor, &inner))
		return REASON_VIP_OPTION;
	if ((words == 2) != (inner.kind == INNER_IPV4) || !is_public_mac(inner.eth->h_source))
		return REASON_VIP_OPTION;
	if ((void *)(vip + 2) > end)
		return REASON_VIP_OPTION;
	work->other_port_be = *(const word16 *)vip;
	if (words == 2) {
		map_address(work->address, vip[1]);
	} else {
		if ((void *)(vip + 5) > end)
			return REASON_VIP_OPTION;
		copy_address(work->address, vip + 1);
	}
	if (!parse_transport(cursor, &work->packet, &inner, true, &work->transport))
		return REASON_VIP_OPTION;
	work->listener = (struct listener_key){ .vni = work->packet.to.vni };	/* of the same beginning as an endpoint's */
	copy_address(work->listener.addr, work->address);
	if (!is_member_of((const struct endpoint_key *)&work->listener, inner.eth->h_dest, work->packet.to.addr))
		return REASON_VIP_OPTION;
	if (work->transport.fragment != FRAGMENT_LATER) {
		port = service_port_of(&work->transport.ports_be);
		target = *port;
		work->listener.port_be = work->other_port_be;
		work->listener.protocol = work->transport.protocol;
		listener = bpf_map_lookup_elem(&listeners, &work->listener);
		if (!listener || listener->target_be != target)
			return REASON_VIP_OPTION;
	} else if (work->other_port_be) {
		return REASON_VIP_OPTION;
	}
	return REASON_NONE;
}
#endif
