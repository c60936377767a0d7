/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the shape of what a CPU remembers, in memory that no other CPU sees, so that a table need not be asked for each packet: a
 * number of places, of which a key has one by its hash; keys that share one ask in turn. Two kinds are made of it: answers of this
 * tick of the kernel's clock alone (senders.h, near_flow.h, policy_near.h), and answers that whoever writes the table ends at once,
 * by another version (near_endpoint.h, near_agent.h, near_public.h).
 */
#ifndef MIZAR_NEAR_H
#define MIZAR_NEAR_H
#include "packet.h"

/* A memory of 1 << bits places, each a struct `place_type`. One entry: forgetting all of it is one write. */
#define NEAR(memory, place_type, bits)                                                                                  \
	enum {                                                                                                         \
		memory##_shift = 32 - (bits),                                                                          \
	};                                                                                                             \
	struct memory {                                                                                                \
		struct place_type place[1 << (bits)];                                                                  \
	};                                                                                                             \
	_Static_assert(sizeof(struct memory) <= 32768, "the most of a value of each CPU (PCPU_MIN_UNIT_SIZE)");        \
	MAP(BPF_MAP_TYPE_PERCPU_ARRAY, memory, uint32_t, struct memory, 1, 0)

/* The place of a hash, by its upper bits. A macro: the hash is made behind the call, and need not be kept over it. */
#define NEAR_AT(memory, hash)                                                                                           \
	({                                                                                                             \
		uint32_t zero_ = 0;                                                                                    \
		struct memory *near_ = bpf_map_lookup_elem(&memory, &zero_);                                           \
                                                                                                                       \
		near_ ? &near_->place[(hash) >> memory##_shift] : NULL;                                                \
	})

static __always_inline uint32_t near_hash(uint32_t value)
{
	return value * 0x9e3779b1;
}

/* An address in one word. */
static __always_inline uint32_t folded(const word32 *address)
{
	return address[0] ^ address[1] ^ address[2] << 7 ^ address[3];
}

/*
 * Not 0: two keys differ, or `difference` is that already. Without a branch for each word, which the verifier would follow. `bytes`:
 * a constant.
 */
static __always_inline uint32_t differ(uint32_t difference, const void *one, const void *other, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes / sizeof(word32); i++)
		difference |= ((const word32 *)one)[i] ^ ((const word32 *)other)[i];
	return difference;
}

/* What a table said, also that there is nothing. Behind the key, in front of the value. */
struct near_answer {
	uint32_t tick;
	uint32_t version;	/* before the table was asked */
	uint32_t known;		/* 0: there is none */
};

/* As it is now. `version`: of the table, or of a key's place in it. */
static __always_inline uint32_t current(const uint32_t *version)
{
	return *(const volatile uint32_t *)version;
}

/* 0: still believed. */
static __always_inline uint32_t age_of(const struct near_answer *answer, uint32_t version)
{
	return (answer->tick ^ (uint32_t)bpf_jiffies64()) | (answer->version ^ version);
}

/* Asks `table` for *asked, and notes in `near`, of members key, answer and value, what it says and since which version. */
#define NEAR_ASK(near, since, table, asked)                                                                             \
	({                                                                                                             \
		const typeof((near)->value) *found_;                                                                   \
                                                                                                                       \
		(near)->answer.version = (since);                                                                      \
		(near)->answer.tick = bpf_jiffies64();                                                                 \
		(near)->key = *(asked);                                                                                \
		meet();	/* what is found is at least as new */                                                         \
		found_ = bpf_map_lookup_elem(&table, asked);                                                           \
		(near)->answer.known = found_ ? 1 : 0;                                                                 \
		if (found_)                                                                                            \
			(near)->value = *found_;                                                                       \
	})
#endif
