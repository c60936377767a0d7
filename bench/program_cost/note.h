/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Put in front of deliver.c (clang -include): a test run has no metadata, so the note of Transit XDP is read from the
 * beginning of the frame instead of from in front of it. Nothing else changes: `data_meta` and `data` are the names of
 * the places at which struct __sk_buff has `data` and `data_end`.
 */
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct noted_sk_buff {
	uint32_t len;
	uint32_t pkt_type;
	uint32_t before_ifindex[8];
	uint32_t ifindex;
	uint32_t tc_index;
	uint32_t cb[5];
	uint32_t before_data[2];
	uint32_t data_meta;
	uint32_t data;
	uint32_t before_gso_segs[20];
	uint32_t gso_segs;
};

_Static_assert(offsetof(struct noted_sk_buff, ifindex) == offsetof(struct __sk_buff, ifindex), "ifindex");
_Static_assert(offsetof(struct noted_sk_buff, cb) == offsetof(struct __sk_buff, cb), "cb");
_Static_assert(offsetof(struct noted_sk_buff, data_meta) == offsetof(struct __sk_buff, data), "data");
_Static_assert(offsetof(struct noted_sk_buff, data) == offsetof(struct __sk_buff, data_end), "data_end");
_Static_assert(offsetof(struct noted_sk_buff, gso_segs) == offsetof(struct __sk_buff, gso_segs), "gso_segs");

#define __sk_buff noted_sk_buff
#define bpf_skb_change_type(skb, type) bpf_skb_change_type((void *)(skb), type)
#define bpf_l4_csum_replace(skb, ...) bpf_l4_csum_replace((void *)(skb), __VA_ARGS__)

/* A test run shows no frame that is translated: that part is left out. Its functions need the real names of the places, as do
 * all that the verifier looks at on their own. */
#undef __sk_buff
#include "lib/event.h"
#include "lib/pull.h"
#include "lib/service.h"
#include "lib/shaper.h"
#include "lib/trace.h"
#include "lib/verdict.h"
#define __sk_buff noted_sk_buff
#define hand_over_shaped(skb, ...) hand_over_shaped((void *)(skb), __VA_ARGS__)
#define refuse_delivery(skb, reason, packet) refuse_delivery((void *)(skb), reason, packet)
#define report_skb(skb, ...) report_skb((void *)(skb), __VA_ARGS__)
#define hand_over_shaped(skb, ...) hand_over_shaped((void *)(skb), __VA_ARGS__)
#define pull_headers(skb) ((void)0)
#define translate_delivery(...) REASON_REWRITE_FAILED
