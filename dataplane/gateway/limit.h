/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns token buckets, one for a limit or one for each metadata value. The number of these is bounded: values that find no room
 * share the limit's own.
 *
 * A bucket keeps what is missing to be full, in billionths of a token, so that nothing is lost in rounding and zeros mean
 * full. On one CPU it is equal to mizar/pipeline/interpreter/buckets.py. CPUs that meet in one bucket never wait: the one that
 * moves `filled_ns` on fills it for the time that passed, and each takes its token by one atomic addition. A CPU that finds none
 * left behind its addition gives it back. Until then others may be refused: a bucket lets never more through than it
 * should but for the time of one filling, which two CPUs can both see as missing; less by at most a packet for each CPU.
 */
#ifndef MIZAR_GATEWAY_LIMIT_H
#define MIZAR_GATEWAY_LIMIT_H
#include "count.h"

enum bucket_constant {
	BUCKETS_MOST = 256,
};

static const uint64_t TOKEN = 1000000000;

struct gateway_bucket {
	uint64_t filled_ns;
	uint64_t missing;	/* billionths of a token */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BUCKETS_MOST);
	__type(key, uint32_t);
	__type(value, struct gateway_bucket);
} gateway_buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, METAS_MOST);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gateway_meta_key);
	__type(value, struct gateway_bucket);
} gateway_meta_buckets SEC(".maps");

/* Whether one more packet passes. `burst` in billionths; `full_ns`: after so long any bucket is full. */
static __always_inline bool bucket_take(struct gateway_bucket *bucket, uint64_t now_ns, uint64_t packets_per_s,
					uint64_t burst, uint64_t full_ns)
{
	uint64_t filled_ns = bucket->filled_ns, missing = bucket->missing, more;

	if (now_ns > filled_ns && __sync_val_compare_and_swap(&bucket->filled_ns, filled_ns, now_ns) == filled_ns) {
		more = now_ns - filled_ns >= full_ns ? missing : (now_ns - filled_ns) * packets_per_s;
		more = more < missing ? more : missing;
		if ((int64_t)missing > 0)
			__sync_fetch_and_add(&bucket->missing, -more);
	}
	missing = __sync_fetch_and_add(&bucket->missing, TOKEN) + TOKEN;
	/* Below zero, when two CPUs filled it at once: as good as full, and not filled again. */
	if ((int64_t)missing <= (int64_t)burst)
		return true;
	__sync_fetch_and_add(&bucket->missing, -TOKEN);
	return false;
}

static __always_inline bool limit(struct gateway_packet *p, uint32_t number, uint64_t packets_per_s, uint64_t burst,
				  uint64_t full_ns, bool exact)
{
	struct gateway_bucket *bucket = bpf_map_lookup_elem(&gateway_buckets, &number);

	return bucket && bucket_take(bucket, packet_now_ns(p, exact), packets_per_s, burst, full_ns);
}

/* One for each metadata value; values that find no room share the limit's own. */
static __always_inline bool limit_meta(struct gateway_packet *p, uint32_t number, uint64_t packets_per_s,
				       uint64_t burst, uint64_t full_ns, bool exact)
{
	struct gateway_meta_key key = { .number = number, .meta = p->meta };
	uint64_t now_ns = packet_now_ns(p, exact);
	struct gateway_bucket *bucket = bpf_map_lookup_elem(&gateway_meta_buckets, &key);
	struct gateway_bucket full = { .filled_ns = now_ns };

	if (!bucket) {
		bpf_map_update_elem(&gateway_meta_buckets, &key, &full, BPF_NOEXIST);
		bucket = bpf_map_lookup_elem(&gateway_meta_buckets, &key);
	}
	if (!bucket)
		bucket = bpf_map_lookup_elem(&gateway_buckets, &number);
	return bucket && bucket_take(bucket, now_ns, packets_per_s, burst, full_ns);
}
#endif
