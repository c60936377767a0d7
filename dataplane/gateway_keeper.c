/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gateway_keeper: what a gateway's process does to connections that the data plane may be writing at the same time
 * (mizar/kernel/gateway_keeper.py). The process runs it by a system call with an order as its context. What is counted is
 * counted atomically, a connection is removed by whoever has marked it as gone, and nothing is installed by halves.
 */
#include <linux/errno.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "gateway/layout.h"

#define SHARED_HASH(name, key_type, value_type) \
	struct { \
		__uint(type, BPF_MAP_TYPE_HASH); \
		__uint(max_entries, 1);	/* the loader's business */ \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")

SHARED_HASH(connections4, struct connection4_key, struct connection4);
SHARED_HASH(connections6, struct connection6_key, struct connection6);
SHARED_HASH(nat_tenants, uint32_t, struct nat_tenant);

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

	if (tenant)
		return tenant;
	bpf_map_update_elem(&nat_tenants, &meta, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&nat_tenants, &meta);
}

static __always_inline void give(uint32_t meta)
{
	struct nat_tenant *tenant = bpf_map_lookup_elem(&nat_tenants, &meta);

	if (tenant)
		__sync_fetch_and_add(&tenant->in_use, -1);
}

/* `flags` is the upper half of a 32-bit word on a little-endian machine, the lower one on a big-endian one. */
#define FLAGS_WORD(entry) ((uint32_t *)((uint8_t *)(entry) + (__builtin_offsetof(typeof(*(entry)), flags) & ~3)))
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define GONE_BIT ((uint32_t)CONNECTION_GONE << 16)
#else
#define GONE_BIT ((uint32_t)CONNECTION_GONE)
#endif

/* First the way back: where that is taken, no packet has been sent out under it. */
#define INSTALL(map, order) ({ \
	long result_; \
	struct nat_tenant *tenant_ = tenant_of((order)->value.tenant); \
	if (!tenant_) { \
		result_ = -ENOSPC; \
	} else if (__sync_fetch_and_add(&tenant_->in_use, 1) >= tenant_->quota) { \
		__sync_fetch_and_add(&tenant_->in_use, -1); \
		__sync_fetch_and_add(&tenant_->refused, 1); \
		result_ = -EDQUOT; \
	} else { \
		result_ = bpf_map_update_elem(&(map), &(order)->twin, &(order)->twin_value, BPF_NOEXIST); \
		if (!result_) { \
			result_ = bpf_map_update_elem(&(map), &(order)->key, &(order)->value, BPF_NOEXIST); \
			if (result_) \
				bpf_map_delete_elem(&(map), &(order)->twin); \
		} \
		if (result_) \
			__sync_fetch_and_add(&tenant_->in_use, -1); \
		else \
			__sync_fetch_and_add(&tenant_->begun, 1); \
	} \
	result_; \
})

#define REMOVE(map, order) ({ \
	long result_ = -ENOENT; \
	typeof(&(order)->value) entry_ = bpf_map_lookup_elem(&(map), &(order)->key); \
	if (entry_ && !(__sync_fetch_and_or(FLAGS_WORD(entry_), GONE_BIT) & GONE_BIT)) { \
		uint32_t meta_ = entry_->tenant; \
		bpf_map_delete_elem(&(map), &(order)->twin); \
		bpf_map_delete_elem(&(map), &(order)->key); \
		give(meta_); \
		result_ = 0; \
	} \
	result_; \
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
		return (int)(what == ORDER_INSTALL ? INSTALL(connections4, &own) : REMOVE(connections4, &own));
	} else {
		struct order6 own;

		__builtin_memcpy(&own, order->body, sizeof(own));
		return (int)(what == ORDER_INSTALL ? INSTALL(connections6, &own) : REMOVE(connections6, &own));
	}
}

char program_license[] SEC("license") = "Dual BSD/GPL";
