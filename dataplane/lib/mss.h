/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what the way to the next droplet has room for: how long a packet is, and the MSS that TCP may agree on (RFC 9293
 * 3.7.1), lowered in SYN and SYN-ACK where it promises more. Called by the agent, which alone sees the frames of endpoints
 * before they are cut.
 */
#ifndef MIZAR_MSS_H
#define MIZAR_MSS_H
#include "parse.h"

enum tcp_layout {
	TCP_HEADER = 20,
	TCP_DATA_OFFSET = 12,
	TCP_FLAGS = 13,
	TCP_CHECKSUM = 16,
	TCP_SYN = 0x02,
	TCP_OPTION_END = 0,
	TCP_OPTION_NOP = 1,
	TCP_OPTION_MSS = 2,
	TCP_MSS_BYTES = 4,
	TCP_OPTIONS_READ = 10,	/* the MSS stands first as a rule */
};

static __always_inline bool is_tcp(const struct inner *inner)
{
	return inner->protocol == IPPROTO_TCP && !inner->fragment;
}

/* The longest frame that the wire will see of this one: of a superpacket, a segment. */
static __always_inline uint32_t longest_frame(const struct __sk_buff *skb, struct cursor transport,
					      const struct packet *packet, const struct inner *inner)
{
	uint32_t headers = packet->bytes - transport.left;
	uint8_t *tcp;

	if (!skb->gso_size)
		return packet->bytes;
	if (inner->protocol == IPPROTO_UDP)
		return headers + sizeof(struct udphdr) + skb->gso_size;
	tcp = is_tcp(inner) ? take(&transport, TCP_HEADER) : NULL;
	/* Of what else the kernel may cut nothing is known: its segments are taken to fit. */
	return tcp ? headers + (tcp[TCP_DATA_OFFSET] >> 4) * 4 + skb->gso_size : 0;
}

/*
 * Lowers the MSS option of a SYN to what `room` bytes of IP packet leave for data. By helpers, for a checksum may be left
 * to hardware. Pointers into the frame are void afterwards.
 */
static __always_inline void clamp_mss(struct __sk_buff *skb, struct cursor transport, const struct inner *inner,
				      uint32_t room)
{
	uint32_t begin = transport.at - (void *)(long)skb->data;
	uint16_t most = room - (inner->kind == INNER_IPV4 ? 20 : 40) - TCP_HEADER;
	uint8_t *tcp = is_tcp(inner) ? take(&transport, TCP_HEADER) : NULL;
	uint32_t at = TCP_HEADER, end;

	if (!tcp || !(tcp[TCP_FLAGS] & TCP_SYN))
		return;
	end = (tcp[TCP_DATA_OFFSET] >> 4) * 4;
	if (end - TCP_HEADER > transport.left)
		return;
	for (int i = 0; i < TCP_OPTIONS_READ; i++) {
		uint8_t *option = tcp + at;

		if (at + 2 > end || (void *)(option + TCP_MSS_BYTES) > transport.end || option[0] == TCP_OPTION_END)
			return;
		if (option[0] == TCP_OPTION_MSS) {
			uint16_t before_be = *(word16 *)(option + 2), after_be = bpf_htons(most);

			if (option[1] != TCP_MSS_BYTES || at + TCP_MSS_BYTES > end || bpf_ntohs(before_be) <= most)
				return;
			if (at & 1) {	/* the option's words are not the checksum's */
				before_be = before_be << 8 | before_be >> 8;
				after_be = after_be << 8 | after_be >> 8;
			}
			if (!bpf_l4_csum_replace(skb, begin + TCP_CHECKSUM, before_be, after_be, 2))
				bpf_skb_store_bytes(skb, begin + at + 2, &(uint16_t){ bpf_htons(most) }, 2, 0);
			return;
		}
		if (option[0] != TCP_OPTION_NOP && option[1] < 2)
			return;
		at += option[0] == TCP_OPTION_NOP ? 1 : option[1];
		if (at > 60)
			return;
	}
}
#endif
