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

/* What the IP header of a frame on its way out carries. */
struct carried {
	uint32_t at;	/* from the beginning of the frame on */
	uint32_t left;	/* bytes */
	uint8_t protocol;
	bool ipv4;
	bool fragment;
};

/* Of a frame whose headers were read and found whole before. */
static __always_inline __must_check bool find_carried(void *frame, const void *end, struct carried *carried)
{
	struct ethhdr *eth = frame;
	struct iphdr *ip4 = frame + ETH_HLEN;
	struct ipv6hdr *ip6 = frame + ETH_HLEN;

	if ((void *)(ip4 + 1) > end)
		return false;
	carried->ipv4 = eth->h_proto == bpf_htons(ETH_P_IP);
	if (carried->ipv4) {
		carried->at = ETH_HLEN + ip4->ihl * 4;
		carried->left = bpf_ntohs(ip4->tot_len) - ip4->ihl * 4;
		carried->protocol = ip4->protocol;
		carried->fragment = ip4->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET);
		return true;
	}
	if ((void *)(ip6 + 1) > end)
		return false;
	carried->at = ETH_HLEN + sizeof(*ip6);
	carried->left = bpf_ntohs(ip6->payload_len);
	carried->protocol = ip6->nexthdr;
	carried->fragment = false;
	return true;
}

/* The longest frame that the wire will see of this one: of a superpacket, a segment. `tcp` where it has such a header. */
static __always_inline uint32_t longest_frame(const struct __sk_buff *skb, const struct carried *carried,
					      const struct packet *packet, const uint8_t *tcp)
{
	uint32_t headers = packet->bytes - carried->left;

	if (!skb->gso_size)
		return packet->bytes;
	if (carried->protocol == IPPROTO_UDP)
		return headers + sizeof(struct udphdr) + skb->gso_size;
	/* Of what else the kernel may cut nothing is known: its segments are taken to fit. */
	return tcp ? headers + (tcp[TCP_DATA_OFFSET] >> 4) * 4 + skb->gso_size : 0;
}

/*
 * Lowers the MSS option of a SYN to what the room leaves for data. By helpers, for a checksum may be left to hardware.
 */
static __always_inline void clamp_mss(struct __sk_buff *skb, const struct carried *carried, const uint8_t *tcp,
				      const void *data_end, uint32_t room)
{
	uint16_t most = room - (carried->ipv4 ? 20 : 40) - TCP_HEADER;
	uint32_t at = TCP_HEADER, end = (tcp[TCP_DATA_OFFSET] >> 4) * 4;

	if (end - TCP_HEADER > carried->left - TCP_HEADER)
		return;
	for (int i = 0; i < TCP_OPTIONS_READ; i++) {
		const uint8_t *option = tcp + at;

		if (at + 2 > end || (void *)(option + TCP_MSS_BYTES) > data_end || option[0] == TCP_OPTION_END)
			return;
		if (option[0] == TCP_OPTION_MSS) {
			uint16_t before_be = *(word16 *)(option + 2), after_be = bpf_htons(most);

			if (option[1] != TCP_MSS_BYTES || at + TCP_MSS_BYTES > end || bpf_ntohs(before_be) <= most)
				return;
			if (at & 1) {	/* the option's words are not the checksum's */
				before_be = before_be << 8 | before_be >> 8;
				after_be = after_be << 8 | after_be >> 8;
			}
			if (!bpf_l4_csum_replace(skb, carried->at + TCP_CHECKSUM, before_be, after_be, 2))
				bpf_skb_store_bytes(skb, carried->at + at + 2, &(uint16_t){ bpf_htons(most) }, 2, 0);
			return;
		}
		if (option[0] != TCP_OPTION_NOP && option[1] < 2)
			return;
		at += option[0] == TCP_OPTION_NOP ? 1 : option[1];
		if (at > 60)
			return;
	}
}

/* Whether it promises how long segments may be. Frames that do, or that do not fit, are for fit_frame(): few are. */
static __always_inline bool is_syn(struct cursor transport, const struct inner *inner)
{
	bool is_tcp = inner->protocol == IPPROTO_TCP && !inner->fragment;
	uint8_t *tcp = is_tcp ? take(&transport, TCP_HEADER) : NULL;

	return tcp && tcp[TCP_FLAGS] & TCP_SYN;
}

/*
 * Not longer than the `room` bytes of IP packet that the way there has, and a SYN does not promise more either. Pointers
 * into the frame are void afterwards. A function of its own for the verifier, which walks the options once and not once for
 * each way that a packet may take.
 */
__attribute__((noinline)) int fit_frame(struct __sk_buff *skb, struct packet *packet, uint32_t room)
{
	void *frame = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct carried carried;
	uint8_t *tcp;

	if (!packet || !find_carried(frame, data_end, &carried))
		return REASON_REWRITE_FAILED;
	tcp = frame + (carried.at & 0x7f);
	if (carried.protocol != IPPROTO_TCP || carried.fragment || carried.left < TCP_HEADER ||
	    (void *)(tcp + TCP_HEADER) > data_end)
		tcp = NULL;
	if (packet->bytes > room + ETH_HLEN && longest_frame(skb, &carried, packet, tcp) > room + ETH_HLEN) {
		packet->mtu = room;
		return REASON_PACKET_TOO_BIG;
	}
	if (tcp && tcp[TCP_FLAGS] & TCP_SYN)
		clamp_mss(skb, &carried, tcp, data_end, room);
	return REASON_NONE;
}
#endif
