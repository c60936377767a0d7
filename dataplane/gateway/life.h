/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns how long a connection lives, and what a packet does to that: contracts/gateway.h, enum connection_flag. Every packet of
 * an established connection comes through touch(), which writes only what changed; all that needs both entries is apart, in
 * functions that the verifier looks at once. (These are told by it that what they are given may be NULL.)
 */
#ifndef MIZAR_GATEWAY_LIFE_H
#define MIZAR_GATEWAY_LIFE_H
#include "read.h"
#include "report.h"
#include "time_out.h"

enum life_constant {
	TCP_OPTIONS_MOST = 40,
	SCALE_MOST = 14,	/* RFC 7323 2.3 */
	/* Those that a packet without SYN, FIN and RST leaves as they are. */
	FLAGS_QUIET = CONNECTION_ORIGINAL | CONNECTION_ANSWERED | CONNECTION_ACK | CONNECTION_SCALE | CONNECTION_FIXED |
		      CONNECTION_MAPPED | CONNECTION_INSTALLED,
};

/* Nothing is written where nothing changed. */
static __always_inline void restamp(struct connection_tail *tail, uint32_t now)
{
	if (tail->stamp != now)
		tail->stamp = now;
}

static __always_inline void set_flags(struct connection_tail *tail, uint16_t flags)
{
	if ((tail->flags & flags) != flags)
		__sync_fetch_and_or(flags_word(tail), (uint32_t)flags << 16);
}

static __always_inline void clear_flags(struct connection_tail *tail, uint16_t flags)
{
	if (tail->flags & flags)
		__sync_fetch_and_and(flags_word(tail), ~((uint32_t)flags << 16));
}

/* The key of the other direction. */
static __always_inline void twin4_key(struct connection4_key *key, const struct connection4 *entry, uint8_t protocol)
{
	key->meta = entry->meta;
	key->src_be = entry->dst_be;
	key->dst_be = entry->src_be;
	key->src_port_be = entry->dst_port_be;
	key->dst_port_be = entry->src_port_be;
	*(uint32_t *)&key->protocol = protocol;
}

static __always_inline void twin6_key(struct connection6_key *key, const struct connection6 *entry, uint8_t protocol)
{
	key->meta = entry->meta;
	copy16(key->src, entry->dst);
	copy16(key->dst, entry->src);
	key->src_port_be = entry->dst_port_be;
	key->dst_port_be = entry->src_port_be;
	*(uint64_t *)&key->protocol = protocol;
}

static __always_inline struct connection_tail *twin_of(const struct connection_seen *seen)
{
	struct connection4_key key4;
	struct connection6_key key6;
	struct connection4 *four;
	struct connection6 *six;

	if (seen->family == 4) {
		twin4_key(&key4, &seen->entry4, seen->key4.protocol);
		four = find4(&key4);
		return four ? tail4(four) : NULL;
	}
	twin6_key(&key6, &seen->entry6, seen->key6.protocol);
	six = find6(&key6);
	return six ? tail6(six) : NULL;
}

/* Whether the other direction keeps an entry alive whose own stamp is too old. */
__noinline bool is_kept_by_twin(struct connection_seen *seen, struct connection_tail *tail, uint32_t now, uint32_t ticks)
{
	struct connection_tail *twin = seen ? twin_of(seen) : NULL;

	if (!tail || !twin || twin->flags & CONNECTION_GONE || !is_fresh(twin->stamp, now, ticks))
		return false;
	tail->stamp = twin->stamp;
	return true;
}

struct scale_search {
	uint8_t options[64];	/* TCP_OPTIONS_MOST, and more for the verifier */
	uint32_t length;
	uint32_t at;
	uint32_t scale;
	uint32_t pad;
};

static long look_at_option(uint32_t number, struct scale_search *search)
{
	uint32_t at = search->at;
	uint8_t kind = search->options[at & 63], bytes = search->options[(at + 1) & 63];

	(void)number;
	if (at >= search->length || kind == 0)
		return 1;
	if (kind == 1)
		bytes = 1;
	else if (bytes < 2 || at + bytes > search->length)
		return 1;
	if (kind == 3 && bytes == 3) {
		search->scale = search->options[(at + 2) & 63];
		return 1;
	}
	search->at = at + bytes;
	return 0;
}

/* RFC 7323: the option window scale of a SYN whose options begin at a place, 255: none. */
__noinline uint32_t read_scale(struct xdp_md *ctx, uint32_t at, uint32_t length)
{
	struct scale_search search = { .scale = 255 };

	if (!length || length > TCP_OPTIONS_MOST || bpf_xdp_load_bytes(ctx, at, search.options, length))
		return 255;
	search.length = length;
	bpf_loop(TCP_OPTIONS_MOST, look_at_option, &search, 0);
	return search.scale == 255 || search.scale <= SCALE_MOST ? search.scale : SCALE_MOST;
}

/* Whether the other side would take a RST. */
static __always_inline bool rst_counts(const struct connection_seen *seen, const struct connection_tail *tail,
				       const struct connection_tail *twin)
{
	uint32_t shift;

	if (!twin)
		return true;
	if (twin->flags & CONNECTION_ACK) {
		shift = twin->flags & tail->flags & CONNECTION_SCALE ? twin->scale & 15 : 0;
		return seen->tcp_seq - twin->ack <= (uint32_t)twin->window << shift;
	}
	if (twin->flags & CONNECTION_SYN)
		return seen->tcp_flags & TCP_ACK && seen->tcp_ack == twin->ack;
	return !(tail->flags & CONNECTION_SYN) || seen->tcp_seq == tail->ack;
}

/* What answers this SYN: RFC 9293 3.10.7, SEG.SEQ + SEG.LEN. */
static __always_inline void note_syn(struct xdp_md *ctx, const struct connection_seen *seen, struct connection_tail *tail)
{
	uint32_t scale = read_scale(ctx, seen->l4_at + TCP_LEAST, seen->tcp_bytes - TCP_LEAST);

	if (!(seen->tcp_flags & TCP_ACK) && !(tail->flags & CONNECTION_ACK)) {
		tail->ack = seen->tcp_seq + 1 + (seen->limit - seen->l4_at - seen->tcp_bytes);
		set_flags(tail, CONNECTION_SYN);
	}
	if (scale <= SCALE_MOST) {
		tail->scale = scale;
		set_flags(tail, CONNECTION_SCALE);
	} else {
		clear_flags(tail, CONNECTION_SCALE);
	}
}

/* A TCP packet that may change what the connection is. */
__noinline int track_tcp(struct xdp_md *ctx, struct connection_seen *seen, struct connection_tail *tail, uint32_t now)
{
	const uint16_t states = CONNECTION_ANSWERED | CONNECTION_FIN | CONNECTION_PEER_FIN | CONNECTION_RESET |
				CONNECTION_PEER_RESET | CONNECTION_SYN | CONNECTION_ACK | CONNECTION_SCALE;
	bool was_closing, answered;
	struct connection_tail *twin;
	uint8_t flags;

	if (!seen || !tail)
		return 0;
	twin = twin_of(seen);
	flags = seen->tcp_flags;
	was_closing = is_closing(tail->flags);
	answered = tail->flags & CONNECTION_ANSWERED;
	if (flags & TCP_RST) {
		if (!rst_counts(seen, tail, twin))
			return 0;
		set_flags(tail, CONNECTION_RESET);
		if (twin)
			set_flags(twin, CONNECTION_PEER_RESET);
	} else {
		if (was_closing && tail->flags & CONNECTION_ORIGINAL && (flags & (TCP_SYN | TCP_FIN | TCP_ACK)) == TCP_SYN) {
			clear_flags(tail, states);
			if (twin)
				clear_flags(twin, states);
			was_closing = answered = false;
		}
		if (tail->flags & CONNECTION_RESET) {
			clear_flags(tail, CONNECTION_RESET);
			if (twin)
				clear_flags(twin, CONNECTION_PEER_RESET);
			was_closing = is_closing(tail->flags);
		}
		tail->window = seen->tcp_window;
		if (flags & TCP_SYN) {
			note_syn(ctx, seen, tail);
			if (!(tail->flags & CONNECTION_ORIGINAL)) {
				set_flags(tail, CONNECTION_ANSWERED);
				if (twin)
					set_flags(twin, CONNECTION_ANSWERED);
			}
		}
		if (flags & TCP_ACK) {
			tail->ack = seen->tcp_ack;
			clear_flags(tail, CONNECTION_SYN);
			set_flags(tail, CONNECTION_ACK);
		}
		if (flags & TCP_FIN) {
			set_flags(tail, CONNECTION_FIN);
			if (twin)
				set_flags(twin, CONNECTION_PEER_FIN);
		}
	}
	if (was_closing)
		return 0;
	restamp(tail, now);
	if (is_closing(tail->flags)) {
		if (twin)
			restamp(twin, now);
		report(seen, GATEWAY_EVENT_CLOSING);
	} else if (!answered && tail->flags & CONNECTION_ANSWERED) {
		report(seen, GATEWAY_EVENT_ANSWERED);
	}
	return 0;
}

/* The first packet that comes back. */
__noinline int answer(struct connection_seen *seen, struct connection_tail *tail)
{
	struct connection_tail *twin;

	if (!seen || !tail)
		return 0;
	twin = twin_of(seen);
	set_flags(tail, CONNECTION_ANSWERED);
	if (twin)
		set_flags(twin, CONNECTION_ANSWERED);
	report(seen, GATEWAY_EVENT_ANSWERED);
	return 0;
}

/* A packet of an established connection has come. */
static __always_inline void touch(struct xdp_md *ctx, struct connection_seen *seen, struct connection_tail *tail, uint8_t protocol,
				  uint32_t now)
{
	const uint16_t flags = tail->flags;

	if (seen->kind == SEEN_LATER) {
		if ((protocol == IPPROTO_TCP || flags & CONNECTION_ORIGINAL) && !is_closing(flags))
			restamp(tail, now);
		return;
	}
	if (protocol == IPPROTO_TCP) {
		if (seen->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) || flags & ~FLAGS_QUIET ||
		    !(flags & CONNECTION_ACK)) {
			track_tcp(ctx, seen, tail, now);
			return;
		}
		if (seen->tcp_flags & TCP_ACK)
			tail->ack = seen->tcp_ack;
		tail->window = seen->tcp_window;
	} else if (!(flags & CONNECTION_ORIGINAL)) {
		if (!(flags & CONNECTION_ANSWERED))
			answer(seen, tail);
		return;
	}
	restamp(tail, now);
}
#endif
