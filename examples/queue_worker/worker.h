/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A DPDK program at a gateway's queue: it gets the first packets of connections, makes the connections in the gateway's
 * maps by the gateway's rules, and gives the packets back, which then take the hot path like all that follow.
 * docs/queue-worker.md shows how it is joined to a gateway.
 *
 * worker.c is DPDK's side of it, flow.c reads a frame, rules.c asks what a connection becomes, install.c makes it.
 */
#ifndef MIZAR_QUEUE_WORKER_H
#define MIZAR_QUEUE_WORKER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway.h"

/* One direction of a connection. Addresses are those of the contract: 16 bytes, IPv4 mapped. */
struct flow {
	uint32_t meta;
	uint8_t version;	/* of IP */
	uint8_t protocol;
	uint16_t src_port_be;	/* ICMP queries: the id, in both */
	uint16_t dst_port_be;
	uint8_t src[16];
	uint8_t dst[16];
};

/* What became of a frame; the program counts each. */
enum fate {
	MADE,		/* a connection, and given back */
	KNOWN,		/* of a connection that was made meanwhile: given back */
	TOO_OFTEN,	/* the same again and again: the pipeline does not find what was made for it */
	STRANGE,	/* no first packet of a connection, or without its note */
	NO_RULE,
	MAPPED,		/* its rule is endpoint-independent, which this program leaves to others */
	QUOTA,
	EXHAUSTED,	/* no free port */
	FULL,		/* no room in the gateway's maps */
	FATES,
};

struct maps {
	int settings, sources, pools, addresses, ends;
	int keeper;	/* the program that installs connections */
};

/* flow.c */
bool read_flow(const uint8_t *frame, uint32_t length, uint32_t meta, struct flow *flow);

/* rules.c: what the rules make of a flow; `pool.addresses` is 0 where no port has to be found */
struct answer {
	struct flow becomes;
	struct nat_pool pool;
	uint32_t tenant;
	bool fixed;	/* a static rule or a forward has a part in it */
};

int open_maps(struct maps *maps, const char *folder);
enum fate ask_rules(const struct maps *maps, const struct flow *flow, struct answer *answer);

/* install.c */
enum fate install(const struct maps *maps, const struct flow *flow, struct answer *answer);
#endif
