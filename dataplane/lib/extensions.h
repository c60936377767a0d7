/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the reading of IPv6's extension headers, and with it all of the reading of an inner frame: parse.h reads what every
 * packet has. Few packets have any, so this is a function of its own for the verifier, which walks the chain once.
 */
#ifndef MIZAR_EXTENSIONS_H
#define MIZAR_EXTENSIONS_H
#include "parse.h"

enum extension_limit {
	EXTENSIONS = 8,		/* more in one packet than any use of them needs */
	EXTENSIONS_END = 0x7fff,	/* where the last may end, at most; as the verifier may not see */
};

/*
 * Behind extension headers, `at` bytes into the frame, stands a message of neighbour discovery. Nobody sends one so but to get
 * past those who look at the first header only: an endpoint would believe it, for its hop limit may be 255 on the same droplet.
 */
static __always_inline __must_check enum drop_reason refuse_hidden_discovery(const void *data, const void *end, uint32_t at,
									      uint32_t left, uint8_t next)
{
	for (int i = 0; i <= EXTENSIONS; i++) {
		const struct extension *extension = data + (at & EXTENSIONS_END);
		uint32_t bytes;

		if (next == IPPROTO_ICMPV6) {
			const uint8_t *type = (const uint8_t *)extension;

			return left && (void *)(type + 1) <= end && is_discovery(*type) ? REASON_ND_MALFORMED : REASON_NONE;
		}
		if (!is_extension(next))
			return REASON_NONE;
		if (left < sizeof(*extension) || (void *)(extension + 1) > end)
			return REASON_INNER_TRUNCATED;
		/* Later fragments bear no header; a host ignores discovery in fragments (RFC 6980 5). */
		if (next == IPPROTO_FRAGMENT && extension->fragment & bpf_htons(0xfff8))
			return REASON_NONE;
		bytes = next == IPPROTO_FRAGMENT ? FRAGMENT_BYTES : (extension->units + 1) * 8;
		next = extension->next;
		at += bytes;
		if (left < bytes || data + (at & EXTENSIONS_END) > end)
			return REASON_INNER_TRUNCATED;
		left -= bytes;
	}
	return REASON_INNER_IP_HEADER;
}

__attribute__((noinline)) int read_extensions_of_skb(struct __sk_buff *skb, uint32_t at, uint32_t left, uint8_t next)
{
	return refuse_hidden_discovery((void *)(long)skb->data, (void *)(long)skb->data_end, at, left, next);
}

__attribute__((noinline)) int read_extensions_of_xdp(struct frame_md *ctx, uint32_t at, uint32_t left, uint8_t next)
{
	return refuse_hidden_discovery((void *)(long)ctx->data, (void *)(long)ctx->data_end, at, left, next);
}

/* The inner frame, which is all of the frame. The cursor is left at what the IP header carries. */
static __always_inline __must_check enum drop_reason parse_inner(struct __sk_buff *skb, struct cursor *cursor,
								 struct packet *packet, struct inner *inner)
{
	enum drop_reason reason = parse_headers(cursor, packet, inner);

	if (!reason && inner->extended)
		reason = (enum drop_reason)read_extensions_of_skb(skb, ETH_HLEN + sizeof(struct ipv6hdr), cursor->left,
								  inner->protocol);
	return reason;
}

/* The same of one that begins packet->inner_at bytes into the frame. */
static __always_inline __must_check enum drop_reason parse_tunnelled(struct frame_md *ctx, struct cursor *cursor,
								     struct packet *packet, struct inner *inner)
{
	enum drop_reason reason = parse_headers(cursor, packet, inner);

	if (!reason && inner->extended)
		reason = (enum drop_reason)read_extensions_of_xdp(
			ctx, packet->inner_at + ETH_HLEN + sizeof(struct ipv6hdr), cursor->left, inner->protocol);
	return reason;
}
#endif
