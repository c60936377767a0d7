/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what a gateway's program knows of the frame in its hands, and moving the frame's beginning. The generated code
 * (mizar/pipeline/xdp) has one on its stack and hands it from function to function.
 *
 * All places are bytes from ctx->data. The frame itself begins at `base`: what a step takes off in front stays in the
 * buffer until the frame leaves, or until a later step needs the room again. So a frame that leaves one tunnel and enters
 * another of the same size moves not at all.
 */
#ifndef MIZAR_GATEWAY_PACKET_H
#define MIZAR_GATEWAY_PACKET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

/* Every stage's result must be looked at. */
#ifndef __must_check
#define __must_check __attribute__((warn_unused_result))
#endif

/* Reads and writes of two, four and eight bytes wherever they stand: clang would read bytes one by one. */
typedef uint16_t __attribute__((may_alias)) wire16;
typedef uint32_t __attribute__((may_alias)) wire32;
typedef uint64_t __attribute__((may_alias)) wire64;

enum gateway_limit {
	BASE_MOST = 1023,	/* 2^n - 1: what may stand unused in front of the frame */
	PLACE_MOST = 8191,	/* 2^n - 1: sixteen headers, each as long as it can be */
	ETH_BYTES = 14,
	MAC_PAIR_BYTES = 12,
	TAG_BYTES = 4,
};

/* Where a frame goes on: the number of a group, or where its way ended. */
enum way {
	WAY_EGRESS = 0x10000,
	WAY_KERNEL,
	WAY_DROP,
	WAY_QUEUE = 0x20000,	/* and the queue's number */
};

struct gateway_packet {
	uint64_t now_ns;	/* 0 until somebody asked for the time */
	uint32_t meta;		/* the tenant; what it is before set_meta nobody reads */
	uint32_t length;	/* bytes of the frame, in all its buffers */
	uint32_t base;		/* where the frame begins */
	uint32_t tunnel_at;	/* the outermost tunnel's header, */
	uint32_t inner_at;	/* the Ethernet header behind it, */
	uint32_t inner_end;	/* and where what it carries ends */
	uint32_t has_meta;	/* watched alone */
};

/* For tests and traces: what became of the last frame of this CPU. Written only where config.watched. */
struct gateway_outcome {
	uint32_t way;
	uint32_t meta;
	uint32_t has_meta;
	uint32_t counter;	/* of a drop */
};

struct gateway_config {
	uint32_t egress_ifindex;	/* 0: back where it came from */
	uint8_t watched;
	uint8_t given_clock;		/* tests: the time is what stands in gateway_clock */
	uint8_t zero[2];
};

const volatile struct gateway_config config SEC(".rodata.config");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, uint32_t);
	__type(value, uint64_t);
} gateway_clock SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, uint32_t);
	__type(value, struct gateway_outcome);
} gateway_outcomes SEC(".maps");

/* An argument that a function has no use for: clang passes anything in its place, and the verifier refuses it. */
static __always_inline void kept(const void *argument)
{
	asm volatile("" : : "r"(argument));
}

/* The frame's beginning moves to another place of its buffer; every place is counted from there. */
static __always_inline __must_check bool packet_shift(struct xdp_md *ctx, struct gateway_packet *p, int bytes)
{
	if (bpf_xdp_adjust_head(ctx, bytes))
		return false;
	p->base -= bytes;
	p->tunnel_at -= bytes;
	p->inner_at -= bytes;
	p->inner_end -= bytes;
	return true;
}

/* Room for more bytes in front of the frame, by then part of it. */
static __always_inline __must_check bool packet_grow(struct xdp_md *ctx, struct gateway_packet *p, uint32_t bytes)
{
	uint32_t base = p->base & BASE_MOST;

	if (base < bytes) {
		if (!packet_shift(ctx, p, -(int)(bytes - base)))
			return false;
		base = bytes;
	}
	p->base = base - bytes;
	p->length += bytes;
	return true;
}

/* The frame begins at `base` from now on. */
static __always_inline __must_check bool packet_begin_at(struct xdp_md *ctx, struct gateway_packet *p, uint32_t base)
{
	p->base = base;
	return base <= BASE_MOST / 2 || (base <= PLACE_MOST && packet_shift(ctx, p, base));
}

/* The bytes at a place if so many stand there in the first buffer, else NULL. */
static __always_inline uint8_t *packet_bytes(struct xdp_md *ctx, uint32_t place, uint32_t bytes)
{
	uint8_t *found = (uint8_t *)(long)ctx->data;
	uint8_t *end = (uint8_t *)(long)ctx->data_end;

	if (place > PLACE_MOST)
		return NULL;
	found += place;
	return found + bytes <= end ? found : NULL;
}

/* The kernel's coarse clock as of the last tick that some CPU has seen: asking for it takes 19 ns, asking for the tick 1. The
 * time is written before the tick, so that whoever reads a tick finds its time or a newer one. */
struct gateway_moment {
	uint64_t tick;
	uint64_t ns;
};

static volatile struct gateway_moment moment;

static __always_inline uint64_t coarse_now_ns(void)
{
	uint64_t tick = bpf_jiffies64();

	if (moment.tick != tick) {
		moment.ns = bpf_ktime_get_coarse_ns();
		moment.tick = tick;
	}
	return moment.ns;
}

/* Where time is measured in ticks of the kernel (at most 10 ms long), or exactly. */
static __always_inline uint64_t packet_now_ns(struct gateway_packet *p, bool exact)
{
	uint32_t first = 0;
	uint64_t *given;

	if (config.given_clock) {
		given = bpf_map_lookup_elem(&gateway_clock, &first);
		return given ? *given : 0;
	}
	if (!p->now_ns)
		p->now_ns = exact ? bpf_ktime_get_ns() : coarse_now_ns();
	return p->now_ns;
}
#endif
