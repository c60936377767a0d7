/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the programs of this benchmark share: the frame to begin each run with, and the program to run on it.
 * Included by restore_*.c and baseline_*.c; bench/program_cost.py fills the maps.
 */
#ifndef MIZAR_BENCH_TEMPLATE_H
#define MIZAR_BENCH_TEMPLATE_H
#include <stdint.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

enum {
	TEMPLATE_BYTES = 112,	/* of headers, outer and inner, that a program may have rewritten */
};

struct template {
	uint32_t length;	/* of the whole frame */
	uint32_t room;		/* bytes by which the XDP program under test moves the beginning of the frame */
	uint32_t tc_room;	/* the same of a tc program */
	uint32_t metadata;	/* bytes that it leaves in front */
	uint32_t cb;		/* what a tc program finds in the first word of skb->cb */
	uint32_t vary_at;	/* of the frame: where a word differs from run to run */
	uint32_t vary_mask;	/* how many words there are, less one: a power of two. 0: none differs */
	uint32_t vary_from;	/* the first of them, as a number */
	uint32_t next;
	uint32_t verdict;	/* what the program in place of ours answers */
	uint32_t ifindex;	/* where that of tc sends the frame on live wires; 0: nowhere */
	uint32_t to_peer;	/* whether into the namespace of that interface's other end */
	uint32_t arrived;	/* frames that a sink has taken */
	uint32_t words[TEMPLATE_BYTES / 4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, uint32_t);
	__type(value, struct template);
} template SEC(".maps");

static inline __attribute__((always_inline)) struct template *the_template(void)
{
	uint32_t zero = 0;

	return bpf_map_lookup_elem(&template, &zero);
}

char program_license[] SEC("license") = "Dual BSD/GPL";
#endif
