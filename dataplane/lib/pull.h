/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns making the headers of an skb readable, before parsing begins.
 */
#ifndef MIZAR_PULL_H
#define MIZAR_PULL_H
#include "parse.h"

enum header_bytes {	/* what must lie in the linear part */
	NEEDED_IPV4 = ETH_HLEN + 20 + 20,
	NEEDED_IPV6 = ETH_HLEN + 40 + 20,
	PULLED = 128,
};

/* Headers of a superpacket are linear already, as a rule; pulling them costs a copy. */
static __always_inline void pull_headers(struct __sk_buff *skb)
{
	uint32_t linear = skb->data_end - skb->data;
	uint32_t needed = skb->protocol == bpf_htons(ETH_P_IPV6) ? NEEDED_IPV6 : NEEDED_IPV4;

	/* Where it fails, the parser finds the frame truncated. */
	if (linear < needed && linear < skb->len)
		bpf_skb_pull_data(skb, skb->len < PULLED ? skb->len : PULLED);
}
#endif
