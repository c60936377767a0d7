/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what connection tracking knows of the packet in hand, from connection_look() to connection_nat(): generated code has one
 * beside its gateway_packet, and hands both on. Both functions want a frame that begins with Ethernet and IP, at p->base, and
 * find the rest for themselves, as the frame may have no header that a switch knows: a fragment.
 *
 *   connection_look(ctx, p, seen)            an enum connection_state; of CONNECTION_INVALID, seen->reason says why,
 *                                            which is counted in gateway_reasons
 *   connection_nat(ctx, p, seen, allocate)   GATEWAY_REASON_NONE: the frame and p->meta are what they are to become; else the
 *                                            enum gateway_reason, counted too, and the frame is as it was. The frame's length
 *                                            and places stay; pointers into it are void
 */
#ifndef MIZAR_GATEWAY_SEEN_H
#define MIZAR_GATEWAY_SEEN_H
#include "layout.h"
#include "packet.h"
#include "reasons.h"

struct connection_seen {
	union {			/* the flow: of an ICMP error that of the packet inside, turned round */
		struct connection4_key key4;
		struct connection6_key key6;
	};
	uint64_t aligned[0];
	union {			/* the entry as it was found; not of CONNECTION_NEW and CONNECTION_INVALID */
		struct connection4 entry4;
		struct connection6 entry6;
	};
	uint32_t ip_at;		/* places, from ctx->data, */
	uint32_t l4_at;
	uint32_t limit;		/* where the IP packet ends */
	uint32_t inner_at;	/* of an ICMP error: the IP header inside */
	uint32_t inner_l4_at;
	uint32_t tcp_seq;	/* TCP, host order */
	uint32_t tcp_ack;
	uint32_t datagram;	/* of a fragment: IP's identification, as on the wire */
	uint16_t tcp_window;
	uint8_t tcp_flags;
	uint8_t family;		/* 4 or 6; 0: none that can be tracked */
	uint8_t state;		/* enum connection_state */
	uint8_t reason;		/* enum gateway_reason */
	uint8_t kind;		/* enum seen_kind */
	uint8_t tcp_bytes;	/* of its header */
	uint8_t is_first;	/* the first fragment of a datagram */
	uint8_t pad[7];
};

enum seen_kind {
	SEEN_WHOLE,		/* with its transport header */
	SEEN_LATER,		/* a fragment without */
	SEEN_ERROR,		/* an ICMP error */
};
#endif
