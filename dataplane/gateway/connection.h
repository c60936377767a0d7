/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the two questions that a pipeline has about connections; seen.h says what they want and what they answer. A packet of an
 * established connection costs one lookup, and what it changes is written in place.
 */
#ifndef MIZAR_GATEWAY_CONNECTION_H
#define MIZAR_GATEWAY_CONNECTION_H
#include "allocate.h"
#include "nat.h"

static __always_inline enum connection_state invalid(struct connection_seen *seen, enum gateway_reason reason)
{
	seen->reason = count_reason(reason);
	seen->state = CONNECTION_INVALID;
	return CONNECTION_INVALID;
}

static __always_inline enum gateway_reason why_unknown(const struct connection_seen *seen, uint8_t protocol)
{
	if (seen->kind == SEEN_ERROR)
		return GATEWAY_ERROR_WITHOUT_CONNECTION;
	if (seen->kind == SEEN_LATER)
		return GATEWAY_FRAGMENT_WITHOUT_CONNECTION;
	return protocol == IPPROTO_TCP ? GATEWAY_TCP_WITHOUT_CONNECTION : GATEWAY_REPLY_WITHOUT_QUERY;
}

static __always_inline enum connection_state look_up(struct xdp_md *ctx, struct gateway_packet *p, struct connection_seen *seen,
						     const bool six, bool begins)
{
	const uint8_t protocol = six ? seen->key6.protocol : seen->key4.protocol;
	const struct nat_settings *set = settings();
	struct connection_tail *tail = NULL;
	struct connection4 *entry4;
	struct connection6 *entry6;
	struct connection4_line *line4;
	struct connection6_line *line6;
	uint32_t now, ticks, state;

	if (six) {
		entry6 = find_hot6(&seen->key6, &line6, &state);
		if (entry6) {
			copy_words(&seen->entry6, entry6, sizeof(*entry6) / 8);
			if (!line6 || read_word(&line6->state) == state)
				tail = tail6(entry6);
		}
	} else {
		entry4 = find_hot4(&seen->key4, &line4, &state);
		if (entry4) {
			copy_words(&seen->entry4, entry4, sizeof(*entry4) / 8);
			if (!line4 || read_word(&line4->state) == state)
				tail = tail4(entry4);
		}
	}
	if (tail && set && !(tail->flags & CONNECTION_GONE)) {
		now = now_tick(p);
		ticks = time_out(set, protocol, tail->flags);
		if (is_fresh(tail->stamp, now, ticks) || is_kept_by_twin(seen, tail, now, ticks)) {
			if (seen->kind == SEEN_ERROR)
				return seen->state = CONNECTION_RELATED;
			touch(ctx, seen, tail, protocol, now);
			return seen->state = CONNECTION_ESTABLISHED;
		}
	}
	if (!begins)
		return invalid(seen, why_unknown(seen, protocol));
	return seen->state = CONNECTION_NEW;
}

static __always_inline __must_check enum connection_state connection_look(struct xdp_md *ctx, struct gateway_packet *p,
									  struct connection_seen *seen)
{
	bool begins = false;

	if (!read_frame(ctx, p, seen, &begins))
		return invalid(seen, seen->reason);
	if (seen->is_first)
		note_fragment(seen, now_tick(p));
	return seen->family == 4 ? look_up(ctx, p, seen, false, begins) : look_up(ctx, p, seen, true, begins);
}

static __always_inline __must_check enum gateway_reason connection_nat(struct xdp_md *ctx, struct gateway_packet *p,
								       struct connection_seen *seen, const bool allocate)
{
	enum gateway_reason reason = GATEWAY_NOT_TRANSLATED;

	if (seen->state != CONNECTION_ESTABLISHED && seen->state != CONNECTION_RELATED) {
		if (allocate && seen->state == CONNECTION_NEW)
			reason = connection_begin(ctx, p, seen);
		if (reason)
			return count_reason(reason);
	}
	if (seen->kind == SEEN_ERROR)
		return translate_error(ctx, p, seen);
	return seen->family == 4 ? translate4(ctx, p, seen) : translate6(ctx, p, seen);
}
#endif
