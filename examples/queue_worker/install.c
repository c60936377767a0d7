// SPDX-License-Identifier: Apache-2.0
/*
 * Makes a connection in the gateway's maps, by the gateway's own program for that (dataplane/gateway_keeper.c): it counts
 * quotas, and installs both directions or none. A port is free when the way back is not taken. What contracts/gateway.h says
 * of entries that user space writes is done here.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "worker.h"

static uint32_t tick(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return ((uint64_t)now.tv_sec * 1000000000ull + now.tv_nsec) >> GATEWAY_TICK_SHIFT;
}

static struct flow reversed(const struct flow *flow)
{
	struct flow back = *flow;

	memcpy(back.src, flow->dst, 16);
	memcpy(back.dst, flow->src, 16);
	back.src_port_be = flow->dst_port_be;
	back.dst_port_be = flow->src_port_be;
	return back;
}

/* RFC 1624: what words that change add to a checksum, in the order of bytes that memory has. */
static uint32_t add_changed(uint32_t sum, const void *old, const void *new, uint32_t bytes)
{
	uint16_t before, after;

	for (uint32_t place = 0; place < bytes; place += 2) {
		memcpy(&before, (const uint8_t *)old + place, 2);
		memcpy(&after, (const uint8_t *)new + place, 2);
		if (before != after)
			sum += (uint16_t)~before + after;
	}
	return sum;
}

static uint16_t folded(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static void sums(const struct flow *flow, const struct flow *becomes, uint16_t *addresses, uint16_t *whole)
{
	uint32_t sum = add_changed(add_changed(0, flow->src, becomes->src, 16), flow->dst, becomes->dst, 16);

	*addresses = folded(sum);
	if (flow->protocol == IPPROTO_ICMP)
		sum = 0;
	sum = add_changed(sum, &flow->src_port_be, &becomes->src_port_be, 2);
	if (flow->protocol == IPPROTO_TCP || flow->protocol == IPPROTO_UDP)
		sum = add_changed(sum, &flow->dst_port_be, &becomes->dst_port_be, 2);
	*whole = folded(sum);
}

union key {
	struct connection4_key four;
	struct connection6_key six;
};

static union key key_of(const struct flow *flow)
{
	union key key;

	memset(&key, 0, sizeof(key));
	if (flow->version == 4) {
		key.four.meta = flow->meta;
		memcpy(&key.four.src_be, flow->src + 12, 4);
		memcpy(&key.four.dst_be, flow->dst + 12, 4);
		key.four.src_port_be = flow->src_port_be;
		key.four.dst_port_be = flow->dst_port_be;
		key.four.protocol = flow->protocol;
		return key;
	}
	key.six.meta = flow->meta;
	memcpy(key.six.src, flow->src, 16);
	memcpy(key.six.dst, flow->dst, 16);
	key.six.src_port_be = flow->src_port_be;
	key.six.dst_port_be = flow->dst_port_be;
	key.six.protocol = flow->protocol;
	return key;
}

/* What both entries of a connection have in common. */
struct shared {
	uint32_t tenant, stamp;
	uint16_t flags, rules;
};

static struct connection4 value4(const struct flow *flow, const struct flow *becomes, struct shared shared)
{
	struct connection4 value = {
		.meta = becomes->meta,
		.src_port_be = becomes->src_port_be,
		.dst_port_be = becomes->dst_port_be,
		.stamp = shared.stamp,
		.tenant = shared.tenant,
		.flags = shared.flags,
		.rules = shared.rules,
	};

	memcpy(&value.src_be, becomes->src + 12, 4);
	memcpy(&value.dst_be, becomes->dst + 12, 4);
	sums(flow, becomes, &value.address_sum, &value.whole_sum);
	return value;
}

static struct connection6 value6(const struct flow *flow, const struct flow *becomes, struct shared shared)
{
	struct connection6 value = {
		.meta = becomes->meta,
		.src_port_be = becomes->src_port_be,
		.dst_port_be = becomes->dst_port_be,
		.stamp = shared.stamp,
		.tenant = shared.tenant,
		.flags = shared.flags,
		.rules = shared.rules,
	};

	memcpy(value.src, becomes->src, 16);
	memcpy(value.dst, becomes->dst, 16);
	sums(flow, becomes, &value.address_sum, &value.whole_sum);
	return value;
}

/* 0, or a negative errno. */
static int asked(const struct maps *maps, struct gateway_order *order)
{
	DECLARE_LIBBPF_OPTS(bpf_test_run_opts, run, .ctx_in = order, .ctx_size_in = sizeof(*order));
	int status = bpf_prog_test_run_opts(maps->keeper, &run);

	return status ? status : (int)run.retval;
}

/* Both directions: 0, or a negative errno. */
static int order(const struct maps *maps, const struct flow *flow, const struct flow *becomes, struct shared shared)
{
	struct flow back = reversed(becomes), there = reversed(flow);
	union key first = key_of(flow), twin = key_of(&back);
	struct shared forth = shared;
	struct gateway_order order = { .what = ORDER_INSTALL, .version = flow->version };
	struct order4 {
		struct connection4_key key, twin;
		struct connection4 value, twin_value;
	} four;
	struct order6 {
		struct connection6_key key, twin;
		struct connection6 value, twin_value;
	} six;

	_Static_assert(sizeof(six) <= sizeof(order.body), "as the program reads it");
	forth.flags |= CONNECTION_ORIGINAL;
	if (flow->version == 4) {
		four = (struct order4){ first.four, twin.four, value4(flow, becomes, forth),
					value4(&back, &there, shared) };
		memcpy(order.body, &four, sizeof(four));
	} else {
		six = (struct order6){ first.six, twin.six, value6(flow, becomes, forth),
				       value6(&back, &there, shared) };
		memcpy(order.body, &six, sizeof(six));
	}
	return asked(maps, &order);
}

/* Whether somebody has made it between its frame's way to the queue and here. */
static bool is_there(const struct maps *maps, const struct flow *flow)
{
	struct gateway_order order = { .what = ORDER_FIND, .version = flow->version };
	union key key = key_of(flow);

	memcpy(order.body, &key, sizeof(key));
	return !asked(maps, &order);
}

static enum fate fate_of(int status)
{
	return status == -EDQUOT ? QUOTA : status ? FULL : MADE;
}

enum fate install(const struct maps *maps, const struct flow *flow, struct answer *answer)
{
	uint32_t count = answer->pool.last_port - answer->pool.first_port + 1, first, stride, tries, none = 0;
	uint16_t wanted = ntohs(flow->src_port_be) - answer->pool.first_port;
	bool query = flow->protocol == IPPROTO_ICMP || flow->protocol == IPPROTO_ICMPV6;
	struct shared shared = { .tenant = answer->tenant, .stamp = tick(), .flags = CONNECTION_INSTALLED };
	struct nat_settings settings = { 0 };
	struct timespec now;
	int status;

	if (is_there(maps, flow))
		return KNOWN;
	bpf_map_lookup_elem(maps->settings, &none, &settings);
	shared.rules = settings.rules;
	shared.flags |= answer->fixed ? CONNECTION_FIXED : 0;
	if (!answer->pool.addresses) {
		status = order(maps, flow, &answer->becomes, shared);
		return status == -EEXIST ? EXHAUSTED : fate_of(status);
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	first = now.tv_nsec;	/* where the search begins need not be foreseen by anybody */
	stride = count > PORT_TRIES ? 1 + first % (count / PORT_TRIES) : 1;
	tries = count < PORT_TRIES ? count : PORT_TRIES;
	for (uint32_t turn = 0; turn <= tries; turn++) {	/* the connection's own port first, where the pool has it */
		uint32_t port = turn ? (first + turn * stride) % count : wanted;

		if (port >= count)
			continue;
		answer->becomes.src_port_be = htons(answer->pool.first_port + port);
		if (query)
			answer->becomes.dst_port_be = answer->becomes.src_port_be;
		status = order(maps, flow, &answer->becomes, shared);
		if (status != -EEXIST)
			return fate_of(status);
	}
	return EXHAUSTED;
}
