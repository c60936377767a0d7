/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Endpoints whose kernel cannot be asked (taps, ports of a switch): nobody there would believe an ACK with a cookie. A SYN of a source
 * that nobody knows is answered with what acknowledges another number than its own, a cookie. Whoever sent it refuses that with a
 * reset that bears the cookie (RFC 9293, 3.10.7.3), and sends its SYN again; who forged its address has never seen it. Firewalls may
 * keep such an answer back: a quarter of the time, another for each source, it is a sound one. Who acknowledges the cookie in that
 * is reset by the endpoint, which knows nothing of it, and let in when it begins anew.
 */
#ifndef MIZAR_DDOS_CHALLENGE_H
#define MIZAR_DDOS_CHALLENGE_H
#include "ddos/answer.h"
#include "ddos/report.h"

enum {
	TRUSTED = 4096,
	TRUST_TICK_BITS = 30,	/* of the clock's nanoseconds */
	TRUST_TICKS = 64,	/* a little more than a minute */
	TRUST_TICK = 0xffff,
};

MIZAR_MAP(BPF_MAP_TYPE_ARRAY, trusted, uint32_t, uint64_t, PROTECTIONS * TRUSTED, 0);

/* Of IPv6 a /64 is one source: whoever has one address of it has all, and would take every place. */
static __always_inline uint64_t source_hash(const struct function_frame *frame, uint64_t seed)
{
	const uint64_t *words = (const void *)frame->src;
	const bool mapped = !words[0] && (uint32_t)words[1] == bpf_htonl(0xffff);

	return mixed(mixed(mixed(seed, words[0]), mapped ? words[1] : 0), frame->vni);
}

/*
 * What the cookie of a challenge is made of. All kernels of this machine have one secret, and make cookies for their tenants by it;
 * by these ends none of those is a challenge's, and none of a challenge's is another protection's, or a kernel's.
 */
static __always_inline void hidden_ends(const struct function_frame *frame, const struct tcphdr *tcp, uint64_t hash,
					struct ends *ends)
{
	ends_of(frame, tcp, ends);
	((uint32_t *)ends->src)[3] ^= (uint32_t)hash;
	((uint32_t *)ends->dst)[3] ^= (uint32_t)(hash >> 32);
}

static __always_inline uint64_t *trust_of(const struct seen *seen, uint64_t hash)
{
	uint32_t at = seen->number * TRUSTED + (hash >> 32 & (TRUSTED - 1));

	return bpf_map_lookup_elem(&trusted, &at);
}

static __always_inline bool is_trusted(const struct seen *seen, uint64_t hash)
{
	const uint64_t *place = trust_of(seen, hash), tag = hash & ~(uint64_t)TRUST_TICK;

	return place && (*place & ~(uint64_t)TRUST_TICK) == tag &&
	       ((seen->now >> TRUST_TICK_BITS) - *place & TRUST_TICK) < TRUST_TICKS;
}

static __always_inline bool is_sound(const struct seen *seen, uint64_t hash)
{
	return (mixed(hash, seen->now >> TRUST_TICK_BITS) >> 32 & 3) == 3;
}

/* A reset that bears what the challenge acknowledged, as if that were of a SYN with the number 0; or an ACK of what was sound. */
static __always_inline bool proves(const struct mizar_call *call, const struct tcphdr *tcp, const struct ends *ends)
{
	struct tcphdr copy = *tcp;

	if (tcp->syn || !(tcp->rst || tcp->ack))
		return false;
	if (tcp->rst) {
		copy.seq = bpf_htonl(1);
		copy.ack_seq = bpf_htonl(bpf_ntohl(tcp->seq) + 1);
	}
	return has_cookie(call, &copy, ends);
}

static __always_inline int challenge(const struct mizar_call *call, const struct seen *seen, const struct ddos_protection *rule,
				     const struct tcphdr *tcp, bool opens)
{
	const uint64_t hash = source_hash(call->frame, rule->seed);
	uint64_t *place;
	struct ends ends;

	if (is_trusted(seen, hash))
		return FUNCTION_CONTINUE;
	hidden_ends(call->frame, tcp, hash, &ends);
	if (!opens) {
		place = trust_of(seen, hash);
		if (place && proves(call, tcp, &ends)) {
			*place = (hash & ~(uint64_t)TRUST_TICK) | (seen->now >> TRUST_TICK_BITS & TRUST_TICK);
			count(call, seen->number, KIND_VERIFIED);
		}
		return FUNCTION_CONTINUE;
	}
	if (!make_answer(call, seen, &ends, tcp->doff * 4, !is_sound(seen, hash)))
		return refuse(call, seen, rule->seed, KIND_MALFORMED);
	count(call, seen->number, KIND_SYN);
	blame(call, seen, rule->seed, KIND_SYN);
	return mizar_answer(call);
}

#endif
