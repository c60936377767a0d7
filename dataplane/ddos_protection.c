/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ddos-protection: the function behind kind DdosProtection (docs/ddos.md). Made with mizar_function.h alone, as anybody's would be.
 *
 * All state is in arrays, with a share for each protection: nothing is inserted and nobody is evicted, whatever an attacker
 * sends, and no tenant touches another's. Limits are kept as the time at which one would be within them again, in a sketch of
 * two rows: a source is over only where both of its places are. What TCP connections there are, the endpoint's own kernel is asked.
 */
#include <linux/in.h>
#include "mizar_function.h"
#include "ddos/cookies.h"
#include "ddos/limits.h"
#include "ddos/lists.h"
#include "ddos/reflection.h"
#include "ddos/report.h"
#include "ddos/state.h"

enum {
	MOST_EXTENSIONS = 4,
};

MIZAR_REASONS({ KIND_BLOCKED, "SOURCE_BLOCKED", "The source is on the protection's block list." },
	      { KIND_SOURCE, "SOURCE_OVER_LIMIT", "The source sends more than the protection allows for one." },
	      { KIND_TARGET, "TARGET_OVER_LIMIT", "The endpoint gets more than the protection allows." },
	      { KIND_ACK, "NO_SUCH_CONNECTION", "While SYNs are answered with cookies: neither a connection of the endpoint nor a cookie." },
	      { KIND_REFLECTED, "REFLECTED", "A datagram from a port that attacks are reflected by, and no answer to a question." },
	      { KIND_MALFORMED, "SYN_MALFORMED", "While SYNs are answered with cookies: a SYN that none is made for." });

/* Behind extension headers. A fragment behind the first has none. */
static __always_inline void find_transport(const struct mizar_call *call, struct seen *seen)
{
	struct function_frame *frame = call->frame;

	seen->at = frame->transport_at;
	seen->protocol = frame->protocol;
	if (frame->family != FAMILY_IPV6)
		return;
#pragma clang loop unroll(disable)
	for (int header = 0; header < MOST_EXTENSIONS; header++) {
		uint8_t *next;

		if (seen->protocol != IPPROTO_HOPOPTS && seen->protocol != IPPROTO_DSTOPTS && seen->protocol != IPPROTO_ROUTING &&
		    seen->protocol != IPPROTO_FRAGMENT)
			return;
		next = mizar_bytes(call, seen->at, 8);
		if (!next)
			break;
		if (seen->protocol == IPPROTO_FRAGMENT) {
			seen->protocol = next[0];
			seen->at = next[2] | (next[3] & 0xf8) ? 0 : seen->at + 8;
			return;
		}
		seen->protocol = next[0];
		seen->at += 8 + next[1] * 8;
	}
	seen->at = 0;
}

MIZAR_FUNCTION(ddos_protection, MIZAR_STAGE(ENDPOINT_INGRESS_STAGE) | MIZAR_STAGE(ENDPOINT_EGRESS_STAGE))
{
	struct function_frame *frame = call->frame;
	uint32_t slot = frame->endpoint, verdict;
	uint32_t *number = bpf_map_lookup_elem(&endpoint_values, &slot);
	struct ddos_protection *rule;
	struct seen seen = {};
	int decided;

	if (!number || !*number || !frame->network_at)
		return FUNCTION_CONTINUE;
	seen.number = *number & (PROTECTIONS - 1);
	rule = bpf_map_lookup_elem(&protections, &seen.number);
	if (!rule)
		return FUNCTION_CONTINUE;
	seen.now = bpf_ktime_get_coarse_ns();
	if (call->stage == ENDPOINT_EGRESS_STAGE) {
		if (!(rule->flags & DDOS_REFLECTED))
			return FUNCTION_CONTINUE;
		find_transport(call, &seen);
		return seen.protocol == IPPROTO_UDP ? note_question(call, &seen, rule) : FUNCTION_CONTINUE;
	}
	count(call, seen.number, KIND_SEEN);
	if (rule->flags & DDOS_LISTS) {
		verdict = verdict_of(frame, seen.number);
		if (verdict == PREFIX_ALLOWED)
			return FUNCTION_CONTINUE;
		if (verdict == PREFIX_BLOCKED)
			return refuse(call, &seen, rule->seed, KIND_BLOCKED);
	}
	find_transport(call, &seen);
	if (rule->flags & DDOS_COOKIES && seen.protocol == IPPROTO_TCP) {
		decided = check_segment(call, &seen, rule);
		if (decided != FUNCTION_CONTINUE)
			return decided;
	}
	if (rule->flags & DDOS_REFLECTED && seen.protocol == IPPROTO_UDP) {
		decided = filter_datagram(call, &seen, rule);
		if (decided != FUNCTION_CONTINUE)
			return decided;
	}
	if (rule->source_packet_ns | rule->source_kib_ns && source_over(frame, &seen, rule))
		return refuse(call, &seen, rule->seed, KIND_SOURCE);
	if (rule->target_packet_ns | rule->target_kib_ns && target_over(frame, &seen, rule))
		return refuse(call, &seen, rule->seed, KIND_TARGET);
	return FUNCTION_CONTINUE;
}
