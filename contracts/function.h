/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Network functions: programs of others in the packet's way (docs/functions.md). What the data plane, a function and Python
 * have to agree on; dataplane/mizar_function.h is what a developer includes. Conventions as in dataplane.h.
 *
 * A function is one source that may run at several stages. At a stage, all functions of the droplet stand in one chain, in the
 * order of (order, name). Whom a function is for is a set of scopes: the droplet, VPCs, networks, groups, endpoints.
 */
#ifndef MIZAR_FUNCTION_CONTRACT_H
#define MIZAR_FUNCTION_CONTRACT_H
#include <stdint.h>

enum function_limit {
	FUNCTIONS = 64,		/* loaded on a droplet at a time: one bit each */
	FUNCTION_CHAIN = 16,	/* at one stage, or at two that one packet meets: the kernel lets it enter 33 programs */
	FUNCTION_REASONS = 32,	/* reasons of its own that a function may have: 1 .. 31; 0: it named none */
	FUNCTION_ABI = 1,	/* the loader refuses a function that was built for another */
	FUNCTION_NO_WAY_BACK = 0x7fffffff,
	FUNCTION_SAMPLE = 256,	/* one packet in so many is timed */
	FUNCTION_LOST = 255,	/* reason of the stand-in for a function that cannot be loaded any more (function_missing.c) */
};

/* Where functions run. The first five are spec'd by name: when Transit XDP has decided, and the frame is as it will go on. */
enum function_stage {
	ON_XDP_TX = 0,		/* bounced, divided or answered: the frame is as it leaves, in its tunnel */
	ON_XDP_PASS = 1,	/* left to the host's own stack */
	ON_XDP_REDIRECT = 2,	/* redirected: by a function of another stage; Transit XDP itself does not redirect */
	ON_XDP_DROP = 3,	/* refused: frame.reason tells why. A function may let it live (FUNCTION_PASS) */
	ON_XDP_SCALED_EP = 4,	/* for a scaled endpoint, before a member is chosen: at a bouncer (XDP), or at the agent (tc) */
	ENDPOINT_INGRESS_STAGE = 5,	/* before delivery: the inner frame, at Transit XDP, or at the agent for what stays on the droplet (tc) */
	ENDPOINT_EGRESS_STAGE = 6,	/* what an endpoint sends, before it is looked at (tc) */
	FUNCTION_STAGES = 7,
	FUNCTION_END = 7,	/* in function_xdp and function_tc: drops, transmits, or sends an endpoint's answer */
	FUNCTION_ONWARD = 8,	/* in the same: back into the pipeline, from stages in the middle of it */
	FUNCTION_PLACES = 9,
};

enum function_verdict {
	FUNCTION_CONTINUE = 0,	/* to the next function, then as the pipeline decided */
	FUNCTION_DROP = 1,	/* with one of the function's own reasons: see mizar_drop() */
	FUNCTION_PASS = 2,	/* the rest of the chain is skipped, and the pipeline goes on; at ON_XDP_DROP: to the host's stack */
	FUNCTION_REDIRECT = 3,	/* out of frame.redirect_ifindex, or as bpf_redirect_map() was told */
	FUNCTION_TRANSMIT = 4,	/* back out of the interface that it came in by */
	FUNCTION_VERDICTS = 5,
};

enum function_family {
	FAMILY_OTHER = 0,	/* ARP, or not parsed */
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
};

/* ---- function_frames: PERCPU_ARRAY of one. What is known of the frame, filled in by the data plane before the first function
 * of a stage. Places count bytes from the frame's first byte as it is now; 0: there is none, or it begins the frame. A function
 * that moves headers corrects them (mizar_moved()). */
struct function_frame {
	uint64_t functions;	/* a bit for each function that this frame is for */
	uint32_t stage;		/* enum function_stage */
	uint32_t verdict;	/* what the pipeline decided: XDP's at Transit XDP, tc's at agents */
	uint32_t reason;	/* ON_XDP_DROP: number in drop_reasons.toml. After FUNCTION_DROP: the function's own */
	uint32_t redirect_ifindex;	/* FUNCTION_REDIRECT; 0: bpf_redirect_map() was told */
	uint32_t vni;		/* number of the VPC; 0: it is of none */
	uint32_t wire_vni;	/* as the tunnel's header has it */
	uint32_t vpc_slot;	/* slots: see dataplane.h. 0: not known */
	uint32_t network;	/* of the local endpoint: slot in hop_sets */
	uint32_t endpoint;	/* the local endpoint, which receives or sends: slot in endpoint_counters */
	uint32_t ifindex;	/* its interface */
	uint32_t from;		/* slot in droplets: who sent the tunnel packet */
	uint32_t length;	/* bytes of the frame as it arrived */
	uint32_t packets;	/* on the wire: more than one in a superpacket (tc) */
	uint32_t function;	/* FUNCTION_DROP and FUNCTION_TRANSMIT: number of the function that decided */
	uint32_t decided;	/* enum function_verdict: how the chain ended */
	uint16_t inner_at;	/* inner Ethernet header */
	uint16_t network_at;	/* inner IP header; 0: not parsed */
	uint16_t transport_at;	/* behind the inner IP header; 0 for a fragment behind the first, and where not parsed */
	uint16_t options_at;	/* Geneve options */
	uint16_t option_bytes;
	uint16_t group_set;	/* of the sender; 0: nobody said */
	uint8_t family;		/* enum function_family, of the inner packet */
	uint8_t protocol;	/* IPv4's protocol or IPv6's next header */
	uint8_t fragment;	/* 1: a fragment */
	uint8_t tunnel;		/* enum tunnel_protocol; 0: no tunnel (any more) */
	uint8_t trace;		/* mark of a traced packet */
	uint8_t outer_family;	/* enum function_family; 0: no tunnel (any more) */
	uint8_t answers;	/* FUNCTION_REDIRECT at ENDPOINT_INGRESS_STAGE: 1: an answer of the endpoint, see mizar_answer() */
	uint8_t pad[1];
	uint8_t src[16];	/* inner, mapped, network order */
	uint8_t dst[16];
	uint32_t came_by;	/* tc: interface of the endpoint that sent it, which mizar_transmit() sends it back to; 0: the context's;
				 * FUNCTION_NO_WAY_BACK: behind a proxied endpoint, where it is dropped */
	uint32_t entered_by;	/* tc: the context's interface when it entered the chain. Not the sender's behind the shaper */
};

/* ---- function_switches: ARRAY of one -> what this droplet's stages do at all. Zero: no stage costs anything. */
struct function_switches {
	uint64_t droplet;	/* functions that see every frame of their stages */
	uint64_t chains[7];	/* by stage: functions in its chain */
	uint32_t stages;	/* bit of each stage that has a chain */
	uint32_t finer;		/* bits of stages whose functions ask for networks or groups of frames in tunnels */
};

/* ---- vpc_functions: ARRAY, slot in vpc_counters -> bits of functions for the VPC. endpoint_functions: ARRAY, slot in
 * endpoint_counters -> bits of functions for the endpoint itself, its network, and its groups. For frames in tunnels, where no
 * endpoint is at hand: network_functions: ARRAY, slot in hop_sets (of the destination's network) -> bits; group_functions:
 * HASH, group_set_key (of the sender) -> bits of all groups of the set. */

/* ---- function_counters: PERCPU_ARRAY, number of a function * FUNCTION_STAGES + stage. */
struct function_counters {
	uint64_t packets;	/* that it was asked about */
	uint64_t verdicts[5];	/* by enum function_verdict; FUNCTION_CONTINUE is not counted, being the rest */
	uint64_t sampled;	/* packets that were timed */
	uint64_t sampled_ns;
};

/* ---- function_drops: PERCPU_ARRAY, number of a function * FUNCTION_REASONS + own reason -> drop_counter. */

/* ---- function_xdp, function_tc: PROG_ARRAY of FUNCTION_PLACES, enum function_stage -> first program of its chain. Each
 * loaded program has `next_xdp` or `next_tc` of its own, PROG_ARRAY of one: the program behind it, empty in the last. */

/* ---- what an object file says of itself, in sections of these names: .rodata.about, .rodata.reasons (an array). */
struct function_about {
	uint32_t abi;		/* FUNCTION_ABI of the header that it was built with */
	uint32_t frame_bytes;	/* size of struct function_frame */
	uint32_t stages;	/* bit of each stage that it is made for */
	uint8_t name[36];	/* ends in a zero; a label of lower case letters, digits and - or _ */
};

struct function_reason {
	uint32_t number;	/* 1 .. FUNCTION_REASONS - 1 */
	uint8_t name[32];	/* upper case letters, digits and _; ends in a zero */
	uint8_t sentence[124];	/* ends in a zero */
};

/* And what the loader writes into .rodata.instance, for each program that it loads. */
struct function_instance {
	uint32_t number;	/* of the function on this droplet, below FUNCTIONS */
	uint32_t stage;
};
#endif
