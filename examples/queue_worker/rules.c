// SPDX-License-Identifier: Apache-2.0
/*
 * What the gateway's rules make of a new connection: its source by nat_sources, its destination by nat_ends. The maps
 * are asked for every connection, so that a rule that changes holds at once.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "worker.h"

static int open_one(const char *folder, const char *name)
{
	char path[512];
	int found;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	found = bpf_obj_get(path);
	if (found < 0)
		fprintf(stderr, "queue worker: %s cannot be opened: %s\n", path, strerror(errno));
	return found;
}

int open_maps(struct maps *maps, const char *folder)
{
	const struct {
		const char *name;
		int *into;
	} wanted[] = {
		{ "maps/nat_settings", &maps->settings },
		{ "maps/nat_sources", &maps->sources },
		{ "maps/nat_pools", &maps->pools },
		{ "maps/nat_addresses", &maps->addresses },
		{ "maps/nat_ends", &maps->ends },
		{ "progs/gateway_keeper", &maps->keeper },
	};

	for (size_t place = 0; place < sizeof(wanted) / sizeof(*wanted); place++) {
		*wanted[place].into = open_one(folder, wanted[place].name);
		if (*wanted[place].into < 0)
			return -1;
	}
	return 0;
}

/* The inner address as a number, modulo the number of addresses (paired pooling, RFC 4787 REQ-2). */
static uint32_t remainder_of(const uint8_t *addr, uint32_t bytes, uint32_t divisor)
{
	uint64_t rest = 0;

	for (uint32_t place = 16 - bytes; place < 16; place++)
		rest = (rest << 8 | addr[place]) % divisor;
	return rest;
}

/* 1: a rule has the source, 0: none has, less: the maps contradict themselves. */
static int ask_source(const struct maps *maps, const struct flow *flow, struct answer *answer)
{
	uint32_t bytes = flow->version == 4 ? 4 : 16;
	struct nat_source_key key = {
		.prefix_bits = 64 + 8 * bytes,
		.version_be = htonl(flow->version),
		.meta_be = htonl(flow->meta),
	};
	struct nat_source found;
	struct nat_address address;
	uint32_t place;

	memcpy(key.addr, flow->src + 16 - bytes, bytes);
	if (bpf_map_lookup_elem(maps->sources, &key, &found))
		return 0;
	if (!found.pool) {
		answer->fixed = true;
		answer->becomes.meta = found.meta;
		memcpy(answer->becomes.src, found.addr, 16);
		return 1;
	}
	if (bpf_map_lookup_elem(maps->pools, &found.pool, &answer->pool) || !answer->pool.addresses)
		return -1;
	place = answer->pool.first_address + remainder_of(flow->src, bytes, answer->pool.addresses);
	if (bpf_map_lookup_elem(maps->addresses, &place, &address))
		return -1;
	answer->becomes.meta = answer->pool.meta;
	memcpy(answer->becomes.src, address.addr, 16);
	return 1;
}

static bool ask_end(const struct maps *maps, struct answer *answer)
{
	struct flow *becomes = &answer->becomes;
	struct nat_end_key key = {
		.prefix_bits = 32 + 128 + 8 + 16,
		.meta_be = htonl(becomes->meta),
		.protocol = becomes->protocol,
	};
	struct nat_end found;

	memcpy(key.addr, becomes->dst, 16);
	memcpy(key.port_be, &becomes->dst_port_be, 2);
	if (bpf_map_lookup_elem(maps->ends, &key, &found))
		return false;
	becomes->meta = found.meta;
	memcpy(becomes->dst, found.addr, 16);
	if (becomes->protocol == IPPROTO_TCP || becomes->protocol == IPPROTO_UDP)
		becomes->dst_port_be = htons(ntohs(becomes->dst_port_be) + found.add_port);
	return true;
}

enum fate ask_rules(const struct maps *maps, const struct flow *flow, struct answer *answer)
{
	int source;
	bool end;

	*answer = (struct answer){ .becomes = *flow };
	source = ask_source(maps, flow, answer);
	end = source >= 0 && ask_end(maps, answer);
	if (source < 0 || (!source && !end))
		return NO_RULE;
	if (answer->pool.flags & POOL_MAPPING)
		return MAPPED;
	answer->fixed |= end;
	answer->tenant = source ? flow->meta : answer->becomes.meta;
	return MADE;
}
