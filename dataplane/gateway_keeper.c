/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gateway_keeper: what a gateway's process does to connections that the data plane may be writing at the same time
 * (mizar/kernel/gateway_keeper.py). The process runs it by a system call with an order as its context. What is counted is
 * counted atomically, a connection is removed by whoever has marked it as gone, and nothing is installed by halves.
 */
#include <linux/errno.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "gateway/lines.h"

GATEWAY_MAP(BPF_MAP_TYPE_HASH, nat_tenants, uint32_t, struct nat_tenant, 1, BPF_F_NO_PREALLOC);
#include "gateway/leave_tenant.h"
GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, nat_settings, uint32_t, struct nat_settings, 1, 0);

struct order4 {
	struct connection4_key key, twin;
	struct connection4 value, twin_value;
};

struct order6 {
	struct connection6_key key, twin;
	struct connection6 value, twin_value;
};

static __always_inline struct nat_tenant *tenant_of(uint32_t meta)
{
	struct nat_tenant *tenant = bpf_map_lookup_elem(&nat_tenants, &meta);
	struct nat_tenant fresh = { .quota = QUOTA_NONE };
	const struct nat_settings *set;
	uint32_t first = 0;

	if (tenant)
		return tenant;
	set = bpf_map_lookup_elem(&nat_settings, &first);
	if (set && set->quota)
		fresh.quota = set->quota;
	bpf_map_update_elem(&nat_tenants, &meta, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&nat_tenants, &meta);
}

/* `flags` is the upper half of a 32-bit word on a little-endian machine, the lower one on a big-endian one. */
#define FLAGS_WORD(entry) ((uint32_t *)((uint8_t *)(entry) + (__builtin_offsetof(typeof(*(entry)), flags) & ~3)))
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define GONE_BIT ((uint32_t)CONNECTION_GONE << 16)
#else
#define GONE_BIT ((uint32_t)CONNECTION_GONE)
#endif

/* First the way back: where that is taken, no packet has been sent out under it. */
#define INSTALL(version, order) ({ \
	long result_; \
	struct nat_tenant *tenant_ = tenant_of((order)->value.tenant); \
	if (!tenant_) { \
		result_ = -ENOSPC; \
	} else if (__sync_fetch_and_add(&tenant_->in_use, 1) >= tenant_->quota) { \
		__sync_fetch_and_add(&tenant_->in_use, -1); \
		__sync_fetch_and_add(&tenant_->refused, 1); \
		result_ = -EDQUOT; \
	} else { \
		result_ = insert##version(&(order)->twin, &(order)->twin_value); \
		if (!result_) { \
			result_ = insert##version(&(order)->key, &(order)->value); \
			if (result_) \
				remove##version(&(order)->twin); \
		} \
		if (result_) \
			__sync_fetch_and_add(&tenant_->in_use, -1); \
		else \
			__sync_fetch_and_add(&tenant_->begun, 1); \
	} \
	result_; \
})

/* Whether the entry's other direction is this one: between what the process has read and its order, packets may have put another
 * connection under the same key, and the other direction of that would stay. */
static __always_inline bool leads4(const struct connection4 *entry, const struct connection4_key *twin)
{
	return entry->meta == twin->meta && entry->src_be == twin->dst_be && entry->dst_be == twin->src_be &&
	       entry->src_port_be == twin->dst_port_be && entry->dst_port_be == twin->src_port_be;
}

static __always_inline bool leads6(const struct connection6 *entry, const struct connection6_key *twin)
{
	const uint32_t *a = (const uint32_t *)entry->src, *b = (const uint32_t *)twin->dst;
	const uint32_t *c = (const uint32_t *)entry->dst, *d = (const uint32_t *)twin->src;

	return !((entry->meta ^ twin->meta) | (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (c[0] ^ d[0]) |
		 (c[1] ^ d[1]) | (c[2] ^ d[2]) | (c[3] ^ d[3]) | (entry->src_port_be ^ twin->dst_port_be) |
		 (entry->dst_port_be ^ twin->src_port_be));
}

#define REMOVE(version, order, expired) ({ \
	long result_ = -ENOENT; \
	typeof(&(order)->value) entry_ = find##version(&(order)->key); \
	if (entry_ && leads##version(entry_, &(order)->twin) && (!(expired) || entry_->stamp == (order)->value.stamp) && \
	    !(__sync_fetch_and_or(FLAGS_WORD(entry_), GONE_BIT) & GONE_BIT)) { \
		uint32_t meta_ = entry_->tenant; \
		remove##version(&(order)->twin); \
		remove##version(&(order)->key); \
		leave_tenant(meta_); \
		result_ = 0; \
	} \
	result_; \
})

/* What another gateway has seen of a connection that is here too: each word by itself, as the data plane writes them. One that is
 * about to go stays so. */
static __always_inline bool renew(struct connection_tail *tail, const struct connection_tail *from)
{
	uint32_t *word = (uint32_t *)&tail->window, before = read_word(word);

	if (before & GONE_BIT || !swap_word(word, before, *(const uint32_t *)&from->window))
		return false;
	tail->stamp = from->stamp;
	tail->ack = from->ack;
	tail->scale = from->scale;
	tail->rules = from->rules;
	return true;
}

#define RENEW(version, order) ({ \
	typeof(&(order)->value) entry_ = find##version(&(order)->key); \
	typeof(entry_) twin_ = entry_ ? find##version(&(order)->twin) : NULL; \
	bool renewed_ = twin_ && renew(tail##version(entry_), tail##version(&(order)->value)) && \
			renew(tail##version(twin_), tail##version(&(order)->twin_value)); \
	renewed_ ? 0 : -ENOENT; \
})

#define FOLLOW(version, what, order) ({ \
	long done_ = -EINVAL; \
	if ((what) == ORDER_INSTALL) \
		done_ = INSTALL(version, order); \
	else if ((what) == ORDER_REMOVE || (what) == ORDER_EXPIRE) \
		done_ = REMOVE(version, order, (what) == ORDER_EXPIRE); \
	else if ((what) == ORDER_RENEW) \
		done_ = RENEW(version, order); \
	else if ((what) == ORDER_FIND) \
		done_ = find##version(&(order)->key) ? 0 : -ENOENT; \
	done_; \
})

/* The counts beside it go on meanwhile. */
static __always_inline long set_quota(const struct gateway_order *order)
{
	struct nat_tenant *tenant;
	uint32_t own[2];

	__builtin_memcpy(own, order->body, sizeof(own));
	tenant = tenant_of(own[0]);
	if (!tenant)
		return -ENOSPC;
	tenant->quota = own[1];
	return 0;
}

SEC("syscall")
int gateway_keeper(struct gateway_order *order)
{
	uint32_t what = order->what;

	if (what == ORDER_QUOTA)
		return (int)set_quota(order);
	if (order->version == 4) {
		struct order4 own;

		__builtin_memcpy(&own, order->body, sizeof(own));
		return (int)FOLLOW(4, what, &own);
	} else {
		struct order6 own;

		__builtin_memcpy(&own, order->body, sizeof(own));
		return (int)FOLLOW(6, what, &own);
	}
}

char program_license[] SEC("license") = "Dual BSD/GPL";
