/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what is told of packets that bear a trace mark (contracts/wire.md): what became of each, once per program, while
 * somebody listens for the mark. A packet without a mark costs one comparison of what was read anyway.
 */
#ifndef MIZAR_TRACE_H
#define MIZAR_TRACE_H
#include "outer.h"
#include "policy_work.h"

enum trace_constant {
	TRACE_MARKS = 256,
	TRACE_NOTE_SHIFT = 8,	/* in handover.flags: the mark stands above enum handover_flag */
	TRACE_OUTER_IPV4 = ETH_HLEN + 16,
	TRACE_OUTER_IPV6 = ETH_HLEN + 24,
};

MAP(BPF_MAP_TYPE_ARRAY, trace_marks, uint32_t, uint32_t, TRACE_MARKS, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} traces SEC(".maps");

/* NULL: nobody listens. */
static __always_inline struct trace_report *begin_report(const struct packet *packet, uint32_t hook, uint32_t mark,
							 uint32_t reason)
{
	uint32_t key = mark & (TRACE_MARKS - 1);
	const uint32_t *listening = bpf_map_lookup_elem(&trace_marks, &key);
	struct trace_report *report;

	if (!listening || !*listening || !packet)
		return NULL;
	report = bpf_ringbuf_reserve(&traces, sizeof(*report), 0);
	if (!report)
		return NULL;
	*report = (struct trace_report){
		.time_ns = bpf_ktime_get_ns(),
		.reason = reason,
		.vni = packet->to.vni,
		.mark = key,
		.hook = hook,
		.did = reason ? TRACE_REFUSED : TRACE_PASSED,
	};
	key = 0;
	if (reason)
		name_rule(&key, reason, &report->rule, &report->policed_slot);
	copy_address(report->src, packet->src);
	copy_address(report->dst, packet->to.addr);
	return report;
}

/* Where a packet goes that was sent: its outer destination. `begin` is the frame's. */
static __always_inline void read_outer(struct trace_report *report, const void *begin, const void *end)
{
	const struct ethhdr *eth = begin;

	if ((const void *)(eth + 1) > end)
		return;
	if (eth->h_proto == bpf_htons(ETH_P_IP) && begin + TRACE_OUTER_IPV4 + 4 <= end)
		map_address(report->to, *(const word32 *)(begin + TRACE_OUTER_IPV4));
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6) && begin + TRACE_OUTER_IPV6 + 16 <= end)
		copy_address(report->to, begin + TRACE_OUTER_IPV6);
}

/* Functions of their own for the verifier, and for the stacks of their callers. */
__noinline int report_frame(struct frame_md *ctx, const struct packet *packet, uint32_t mark, uint32_t reason, int verdict)
{
	struct trace_report *report = begin_report(packet, HOOK_TRANSIT, mark, reason);
	const struct handover *note = note_of(ctx);
	uint32_t magic = 0;

	if (!report)
		return 0;
	if (!reason) {
		if (note)
			magic = note->magic;
		if (magic == HANDOVER_MAGIC) {
			report->did = TRACE_DELIVERED;
			report->ifindex = note->ifindex;
		} else if (magic == HANDOVER_SEND || verdict == XDP_TX) {
			report->did = TRACE_SENT;
			read_outer(report, (void *)(long)ctx->data, (void *)(long)ctx->data_end);
		}
	}
	bpf_ringbuf_submit(report, 0);
	return 0;
}

/* `ifindex`: where it is delivered; 0: it was sent, into the tunnel. */
__noinline int report_skb(struct __sk_buff *skb, const struct packet *packet, uint32_t hook_and_mark, uint32_t reason,
			  uint32_t ifindex)
{
	struct trace_report *report = begin_report(packet, hook_and_mark >> TRACE_NOTE_SHIFT, hook_and_mark, reason);

	if (!report)
		return 0;
	if (!reason && ifindex) {
		report->did = TRACE_DELIVERED;
		report->ifindex = ifindex;
	} else if (!reason) {
		report->did = TRACE_SENT;
		read_outer(report, (void *)(long)skb->data, (void *)(long)skb->data_end);
	}
	bpf_ringbuf_submit(report, 0);
	return 0;
}

/* On tc a mark goes from program to program beside the side of the proxy, see proxy.h. */
static __always_inline uint32_t carried_mark(const struct __sk_buff *skb)
{
	return *(const volatile uint32_t *)&skb->cb[1] & (TRACE_MARKS - 1);
}
#endif
