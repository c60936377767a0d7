/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Owns when a connection's time is up: for packets that meet it (life.h), and for the sweep (sweep_of.h); and where
 * its flags are. */
#ifndef MIZAR_GATEWAY_TIME_OUT_H
#define MIZAR_GATEWAY_TIME_OUT_H
#include "lines.h"

/* Both flags and window stand in one word, as atomic operations have no smaller one. */
static __always_inline uint32_t *flags_word(struct connection_tail *tail)
{
	return (uint32_t *)&tail->window;
}

static __always_inline bool is_closing(uint16_t flags)
{
	const uint16_t fins = CONNECTION_FIN | CONNECTION_PEER_FIN;

	return (flags & fins) == fins || flags & (CONNECTION_RESET | CONNECTION_PEER_RESET);
}

static __always_inline uint32_t time_out(const struct nat_settings *set, uint8_t protocol, uint16_t flags)
{
	if (protocol == IPPROTO_TCP)
		return flags & CONNECTION_ANSWERED && !is_closing(flags) ? set->tcp : set->tcp_transitory;
	return protocol == IPPROTO_UDP ? set->udp : set->icmp;
}

/* A stamp may be newer than `now`: of another CPU. */
static __always_inline bool is_fresh(uint32_t stamp, uint32_t now, uint32_t ticks)
{
	return (int32_t)(now - stamp) <= (int32_t)ticks;
}
#endif
