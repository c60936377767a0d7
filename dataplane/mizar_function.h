/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the developer of a network function includes, and nothing else (docs/functions.md has a tutorial):
 *
 *	#include "mizar_function.h"
 *	MIZAR_MAP(BPF_MAP_TYPE_HASH, blocked, uint32_t, uint64_t, 1024, 0);
 *	MIZAR_SHARED(vpcs);
 *	MIZAR_REASONS({ 1, "SOURCE_BLOCKED", "The source is on the block list." });
 *	MIZAR_FUNCTION(blocklist, MIZAR_STAGE(ENDPOINT_INGRESS_STAGE) | MIZAR_STAGE(ON_XDP_TX))
 *	{
 *		...
 *		return FUNCTION_CONTINUE;
 *	}
 *
 * Owns the frame of a function's program: whom a packet is for, counting, timing, and the way on in the chain. The body is
 * compiled twice, for XDP and for tc; at each stage the droplet loads it once more, with the stage as a constant, so that what
 * is for other stages costs nothing. `call` is the only thing that a body gets.
 */
#ifndef MIZAR_FUNCTION_H
#define MIZAR_FUNCTION_H
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "dataplane.h"
#include "function.h"

_Static_assert(sizeof(struct function_frame) == 128, "function_frame");
_Static_assert(sizeof(struct function_counters) == 64, "function_counters");

/*
 * Constants: `const volatile struct ... parameters SEC(".rodata.parameters") = {...}`, which a manifest or a test sets. Read its fields
 * by name: through a cast or memcpy() the compiler takes what the source says. Variables that are no map are each program's
 * own (one for each stage and hook), and begin anew with each version: what is to be kept, or shared, is in a map.
 */

/* ---- maps. One of the function's own: all its programs share it, its content outlives a replacement by a version that declares
 * it in the same shape, and it is pinned by its name in the function's folder. */
#define MIZAR_MAP(map_type, map_name, key_type, value_type, entries, flags)                                             \
	struct {                                                                                                       \
		__uint(type, map_type);                                                                                \
		__uint(max_entries, entries);                                                                          \
		__uint(map_flags, flags);                                                                              \
		__type(key, key_type);                                                                                 \
		__type(value, value_type);                                                                             \
	} map_name SEC(".maps")

/* One of the data plane's, by its name: contracts/dataplane.h tells what is in it. No entries: that is how the loader knows it. To be
 * read alone: the loader refuses a function that writes one, with a helper or by a pointer. */
#define MIZAR_SHARED_MAP(map_type, map_name, key_type, value_type, flags)                                               \
	MIZAR_MAP(map_type, map_name, key_type, value_type, 0, flags)
#define MIZAR_SHARED(map_name) MIZAR_SHARED_##map_name
#define MIZAR_SHARED_endpoints                                                                                         \
	MIZAR_SHARED_MAP(BPF_MAP_TYPE_HASH, endpoints, struct endpoint_key, struct endpoint, BPF_F_NO_PREALLOC)
#define MIZAR_SHARED_networks                                                                                          \
	MIZAR_SHARED_MAP(BPF_MAP_TYPE_LPM_TRIE, networks, struct network_key, struct network, BPF_F_NO_PREALLOC)
#define MIZAR_SHARED_vpcs MIZAR_SHARED_MAP(BPF_MAP_TYPE_HASH, vpcs, uint32_t, struct vpc, BPF_F_NO_PREALLOC)
#define MIZAR_SHARED_agents MIZAR_SHARED_MAP(BPF_MAP_TYPE_HASH, agents, uint32_t, struct agent, BPF_F_NO_PREALLOC)
#define MIZAR_SHARED_listeners                                                                                         \
	MIZAR_SHARED_MAP(BPF_MAP_TYPE_HASH, listeners, struct listener_key, struct listener, BPF_F_NO_PREALLOC)
#define MIZAR_SHARED_droplets MIZAR_SHARED_MAP(BPF_MAP_TYPE_ARRAY, droplets, uint32_t, struct droplet, 0)
#define MIZAR_SHARED_droplet_slots                                                                                     \
	MIZAR_SHARED_MAP(BPF_MAP_TYPE_HASH, droplet_slots, struct droplet_key, struct known_sender, BPF_F_NO_PREALLOC)
#define MIZAR_SHARED_group_sets                                                                                        \
	MIZAR_SHARED_MAP(BPF_MAP_TYPE_HASH, group_sets, struct group_set_key, struct group_set, BPF_F_NO_PREALLOC)
#define MIZAR_SHARED_endpoint_counters                                                                                 \
	MIZAR_SHARED_MAP(BPF_MAP_TYPE_PERCPU_ARRAY, endpoint_counters, uint32_t, struct endpoint_counters, 0)
#define MIZAR_SHARED_vpc_counters                                                                                      \
	MIZAR_SHARED_MAP(BPF_MAP_TYPE_PERCPU_ARRAY, vpc_counters, uint32_t, struct vpc_counters, 0)

/* What the scope that an endpoint is in says of it (`value` of an attachment): slot of the endpoint -> that, 0 for none. The platform
 * writes it, before the function sees a packet of the endpoint. Where several scopes mean an endpoint, the narrowest counts. */
#define MIZAR_ENDPOINT_VALUES MIZAR_MAP(BPF_MAP_TYPE_ARRAY, endpoint_values, uint32_t, uint32_t, 16384, 0)

/* Tables of any length, by number: each is replaced whole, by one write, while packets look at it. bpf_map_lookup_elem() of a number
 * gives the table, or NULL, and of the table and a place its value. */
#define MIZAR_TABLES(map_name, value_type, tables)                                                                      \
	struct map_name##_table {                                                                                      \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(max_entries, 1);                                                                                \
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);                                                   \
		__type(key, uint32_t);                                                                                 \
		__type(value, value_type);                                                                             \
	};                                                                                                             \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                                                              \
		__uint(max_entries, tables);                                                                           \
		__type(key, uint32_t);                                                                                 \
		__array(values, struct map_name##_table);                                                              \
	} map_name SEC(".maps")

/* Reasons for which it drops: { number, "NAME", "What a person reads." }, ... */
#define MIZAR_REASONS(...) const struct function_reason mizar_reasons[] SEC(".rodata.reasons") = { __VA_ARGS__ }

#define MIZAR_STAGE(stage) (1u << (stage))

/* ---- one packet at one stage. Readable: `frame` (contracts/function.h tells its fields), `stage`, `xdp`. */
struct mizar_call {
	void *ctx;
	struct function_frame *frame;
	uint32_t stage;	/* enum function_stage: a constant, once loaded */
	bool xdp;	/* a struct xdp_md; else a struct __sk_buff */
};

enum mizar_bound {
	MIZAR_AT = 0x3fff,	/* a place in a frame, as the verifier has to know it */
};

static __always_inline void *mizar_data(const struct mizar_call *call)
{
	return call->xdp ? (void *)(long)((struct xdp_md *)call->ctx)->data :
			   (void *)(long)((struct __sk_buff *)call->ctx)->data;
}

static __always_inline void *mizar_data_end(const struct mizar_call *call)
{
	return call->xdp ? (void *)(long)((struct xdp_md *)call->ctx)->data_end :
			   (void *)(long)((struct __sk_buff *)call->ctx)->data_end;
}

/* The `bytes` of the frame from place `at` on, or NULL where they are not all there to be looked at: `bytes` is a constant. To
 * be written as well as read. Pointers are void once a helper has moved or resized the frame: ask again. */
static __always_inline void *mizar_bytes(const struct mizar_call *call, uint32_t at, uint32_t bytes)
{
	void *begin;

	asm volatile("" : "+r"(at));	/* or clang, knowing better, would leave out the mask that the verifier asks for */
	at &= MIZAR_AT;
	begin = mizar_data(call) + at;
	return begin + bytes > mizar_data_end(call) ? NULL : begin;
}

/* Copies out of, or into, any part of the frame, in whatever buffer it is. 0, or a negative error. */
static __always_inline long mizar_read(const struct mizar_call *call, uint32_t at, void *to, uint32_t bytes)
{
	return call->xdp ? bpf_xdp_load_bytes(call->ctx, at, to, bytes) : bpf_skb_load_bytes(call->ctx, at, to, bytes);
}

static __always_inline long mizar_write(const struct mizar_call *call, uint32_t at, const void *from, uint32_t bytes)
{
	return call->xdp ? bpf_xdp_store_bytes(call->ctx, at, (void *)from, bytes) :
			   bpf_skb_store_bytes(call->ctx, at, from, bytes, 0);
}

/*
 * A word of the frame that checksums cover was `before` and is `after` (both as they stand in the frame): mends the checksum at
 * place `at` (0: there is none). 0, or a negative error. Frames on tc may be superpackets, or have a checksum that a
 * device still has to finish, which a function cannot see: this does what each needs. Pointers into the frame are void afterwards.
 */
enum mizar_checksum {
	MIZAR_OF_HEADER,	/* IPv4's own */
	MIZAR_OF_TRANSPORT,	/* TCP's, UDP's or ICMPv6's; the word is in its header or behind it: a port */
	MIZAR_OF_ADDRESSES,	/* the same; the word is in an address, which such a checksum covers as well */
};

static __always_inline long mizar_checksum(const struct mizar_call *call, uint32_t at, enum mizar_checksum what,
					   uint16_t before, uint16_t after)
{
	uint16_t *check;
	uint32_t sum;

	if (!at)
		return 0;
	if (!call->xdp && what == MIZAR_OF_HEADER)
		return bpf_l3_csum_replace(call->ctx, at, before, after, sizeof(after));
	/* A datagram of IPv4 without a checksum has a zero there, and goes on without one. */
	if (!call->xdp)
		return bpf_l4_csum_replace(call->ctx, at, before, after,
					   sizeof(after) | (what == MIZAR_OF_ADDRESSES ? BPF_F_PSEUDO_HDR : 0) |
						   (call->frame->protocol == 17 ? BPF_F_MARK_MANGLED_0 : 0));
	check = mizar_bytes(call, at, sizeof(*check));
	if (!check)
		return -1;
	if (what != MIZAR_OF_HEADER && call->frame->protocol == 17 && !*check)
		return 0;
	sum = (uint16_t)~*check + (uint16_t)~before + after;	/* RFC 1624 */
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (uint16_t)~((sum & 0xffff) + (sum >> 16));
	*check = !sum && what != MIZAR_OF_HEADER && call->frame->protocol == 17 ? 0xffff : sum;
	return 0;
}

/* Bytes of the whole frame as it is now. */
static __always_inline uint32_t mizar_length(const struct mizar_call *call)
{
	return call->xdp ? (uint32_t)bpf_xdp_get_buff_len(call->ctx) : ((struct __sk_buff *)call->ctx)->len;
}

/* ---- verdicts: `return mizar_drop(call, REASON);` */
static __always_inline int mizar_drop(const struct mizar_call *call, uint32_t reason)
{
	call->frame->reason = reason;
	return FUNCTION_DROP;
}

/* Out of another interface of the droplet. */
static __always_inline int mizar_redirect(const struct mizar_call *call, uint32_t ifindex)
{
	call->frame->redirect_ifindex = ifindex;
	call->frame->answers = 0;
	return FUNCTION_REDIRECT;
}

/* Where bpf_redirect_map() said, which the body has called with success: to an AF_XDP socket, a device, a CPU. */
static __always_inline int mizar_redirected(const struct mizar_call *call)
{
	call->frame->redirect_ifindex = 0;
	call->frame->answers = 0;
	return FUNCTION_REDIRECT;
}

/* At ENDPOINT_INGRESS_STAGE: what the endpoint's delivery goes by. NULL: this is none of Transit XDP's. */
static __always_inline const struct handover *mizar_note(const struct mizar_call *call)
{
	const struct handover *note = call->xdp ? (void *)(long)((struct xdp_md *)call->ctx)->data_meta : NULL;

	if (!call->xdp || call->stage != ENDPOINT_INGRESS_STAGE || (void *)(note + 1) > mizar_data(call))
		return NULL;
	return note->magic == HANDOVER_MAGIC ? note : NULL;
}

/* What is sent to a scaled endpoint or a load balancer, and bears its address yet: HANDOVER_SERVICE, and what else there is of enum
 * handover_flag. 0: it bears the endpoint's own address. */
static __always_inline uint32_t mizar_service(const struct mizar_call *call)
{
	const struct handover *note = mizar_note(call);

	return note && note->flags & HANDOVER_SERVICE ? note->flags : 0;
}

/*
 * At ENDPOINT_INGRESS_STAGE: the frame has become an answer of the endpoint that it was for, to be sent as what the endpoint itself
 * sends, through its agent. Where it bore a service's address, the answer bears that, and functions at ENDPOINT_EGRESS_STAGE do not see
 * it. mizar_answerable() says whether there can be one: not from a proxied endpoint, and not from one that gets frames in tunnels.
 */
static __always_inline bool mizar_answerable(const struct mizar_call *call)
{
	const struct function_frame *frame = call->frame;

	if (call->stage != ENDPOINT_INGRESS_STAGE || !frame->ifindex || frame->ifindex >= PROXY_INTERFACE || frame->tunnel)
		return false;
	return !call->xdp || mizar_note(call);
}

static __always_inline int mizar_answer(const struct mizar_call *call)
{
	call->frame->redirect_ifindex = call->frame->ifindex;
	call->frame->answers = 1;
	return FUNCTION_REDIRECT;
}

/* Back out of the interface that it came in by; on tc, behind a proxied endpoint: dropped. */
static __always_inline int mizar_transmit(const struct mizar_call *call)
{
	(void)call;
	return FUNCTION_TRANSMIT;
}

/* The frame has grown by so many bytes in front of its inner headers (negative: it has shrunk), and the places move along. */
static __always_inline void mizar_moved(const struct mizar_call *call, int32_t bytes)
{
	struct function_frame *frame = call->frame;

	frame->inner_at += bytes;
	if (frame->network_at)
		frame->network_at += bytes;
	if (frame->transport_at)
		frame->transport_at += bytes;
}

/* ---- from here on: what MIZAR_FUNCTION is made of. */
MIZAR_SHARED_MAP(BPF_MAP_TYPE_PERCPU_ARRAY, function_frames, uint32_t, struct function_frame, 0);
MIZAR_SHARED_MAP(BPF_MAP_TYPE_PERCPU_ARRAY, function_counters, uint32_t, struct function_counters, 0);
MIZAR_SHARED_MAP(BPF_MAP_TYPE_PROG_ARRAY, function_xdp, uint32_t, uint32_t, 0);
MIZAR_SHARED_MAP(BPF_MAP_TYPE_PROG_ARRAY, function_tc, uint32_t, uint32_t, 0);
MIZAR_MAP(BPF_MAP_TYPE_PROG_ARRAY, next_xdp, uint32_t, uint32_t, 1, 0);
MIZAR_MAP(BPF_MAP_TYPE_PROG_ARRAY, next_tc, uint32_t, uint32_t, 1, 0);
const volatile struct function_instance mizar_instance SEC(".rodata.instance");

/* To one of the common programs, or to another stage's chain. Returns only where nobody is there. */
#define MIZAR_ENTER(call, place)                                                                                       \
	do {                                                                                                           \
		if ((call)->xdp)                                                                                       \
			bpf_tail_call_static((call)->ctx, &function_xdp, place);                                       \
		else                                                                                                   \
			bpf_tail_call_static((call)->ctx, &function_tc, place);                                        \
	} while (0)

static __always_inline bool mizar_is_midway(const struct mizar_call *call)
{
	return call->stage == ENDPOINT_EGRESS_STAGE || call->stage == ON_XDP_SCALED_EP;
}

/* What kernels understand by "no". */
static __always_inline int mizar_refusal(const struct mizar_call *call)
{
	return call->xdp ? XDP_DROP : TC_ACT_SHOT;
}

/* The pipeline goes on: where it stands in the middle, in a program that looks at the frame as it is now. */
static __always_inline int mizar_go_on(const struct mizar_call *call)
{
	if (!mizar_is_midway(call))
		return call->frame->verdict;
	MIZAR_ENTER(call, FUNCTION_ONWARD);
	call->frame->stage = FUNCTION_STAGES;
	return mizar_refusal(call);
}

/* The end of a chain before its end. */
static __always_inline int mizar_decide(const struct mizar_call *call, int verdict)
{
	struct function_frame *frame = call->frame;

	frame->function = mizar_instance.number;
	frame->decided = verdict;
	if (verdict == FUNCTION_PASS) {
		if (call->stage == ON_XDP_DROP)
			return XDP_PASS;
		return mizar_go_on(call);
	}
	if (verdict == FUNCTION_REDIRECT && !(frame->answers && call->stage == ENDPOINT_INGRESS_STAGE)) {
		frame->stage = ON_XDP_REDIRECT;
		if (frame->redirect_ifindex)
			bpf_redirect(frame->redirect_ifindex, 0);
		frame->verdict = call->xdp ? XDP_REDIRECT : TC_ACT_REDIRECT;
		if (call->xdp && call->stage != ON_XDP_REDIRECT)
			bpf_tail_call_static(call->ctx, &function_xdp, ON_XDP_REDIRECT);
		return frame->verdict;
	}
	if (verdict == FUNCTION_TRANSMIT && !call->xdp && frame->came_by == FUNCTION_NO_WAY_BACK) {
		frame->decided = FUNCTION_DROP;
		frame->reason = 0;
	} else if (verdict == FUNCTION_TRANSMIT && !call->xdp) {
		frame->stage = FUNCTION_STAGES;
		return bpf_redirect(frame->came_by ? frame->came_by : ((struct __sk_buff *)call->ctx)->ifindex, 0);
	}
	MIZAR_ENTER(call, FUNCTION_END);
	frame->stage = FUNCTION_STAGES;
	return mizar_refusal(call);
}

/* Counts, and times one packet in FUNCTION_SAMPLE. */
#define MIZAR_RUN(call, body)                                                                                          \
	do {                                                                                                           \
		uint32_t place = mizar_instance.number * FUNCTION_STAGES + (call)->stage;                              \
		struct function_counters *counters = bpf_map_lookup_elem(&function_counters, &place);                  \
		uint64_t begin = 0;                                                                                    \
		uint32_t verdict;                                                                                      \
                                                                                                                       \
		if (!counters)                                                                                         \
			return mizar_refusal(call);                                                                    \
		if (!(counters->packets++ % FUNCTION_SAMPLE))                                                          \
			begin = bpf_ktime_get_ns();                                                                    \
		verdict = body(call);                                                                                  \
		if (begin) {                                                                                           \
			counters->sampled_ns += bpf_ktime_get_ns() - begin;                                            \
			counters->sampled++;                                                                           \
		}                                                                                                      \
		asm volatile("" : "+r"(verdict)); /* what the verifier compares is what it counts by */                \
		if (verdict > FUNCTION_CONTINUE && verdict < FUNCTION_VERDICTS) {                                      \
			counters->verdicts[verdict]++;                                                                 \
			return mizar_decide(call, verdict);                                                            \
		}                                                                                                      \
	} while (0)

#define MIZAR_PROGRAM(section, name, context, is_xdp, next, body)                                                      \
	SEC(section) int name(context *ctx)                                                                            \
	{                                                                                                              \
		uint32_t zero = 0;                                                                                     \
		struct mizar_call call = {                                                                             \
			.ctx = ctx,                                                                                    \
			.frame = bpf_map_lookup_elem(&function_frames, &zero),                                         \
			.stage = mizar_instance.stage,                                                                 \
			.xdp = is_xdp,                                                                                 \
		};                                                                                                     \
                                                                                                                       \
		if (!call.frame)                                                                                       \
			return mizar_refusal(&call);                                                                   \
		if (call.frame->functions >> (mizar_instance.number & (FUNCTIONS - 1)) & 1)                            \
			MIZAR_RUN(&call, body);                                                                        \
		bpf_tail_call_static(ctx, &next, 0);                                                                   \
		return mizar_go_on(&call);                                                                             \
	}

/* The function itself; a body in braces follows, which returns an enum function_verdict. `function_name` is a C identifier: an
 * underscore stands for a hyphen, too. */
#define MIZAR_FUNCTION(function_name, stage_bits)                                                                      \
	const struct function_about mizar_about SEC(".rodata.about") = {                                               \
		.abi = FUNCTION_ABI,                                                                                   \
		.frame_bytes = sizeof(struct function_frame),                                                          \
		.stages = (stage_bits),                                                                                \
		.name = #function_name,                                                                                \
	};                                                                                                             \
	static __always_inline int mizar_body(struct mizar_call *call);                                                \
	MIZAR_PROGRAM("xdp", mizar_xdp, struct xdp_md, true, next_xdp, mizar_body)                                     \
	MIZAR_PROGRAM("tc", mizar_tc, struct __sk_buff, false, next_tc, mizar_body)                                    \
	char program_license[] SEC("license") = "Dual BSD/GPL";                                                        \
	static __always_inline int mizar_body(struct mizar_call *call)
#endif
