/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the reading of Geneve options (RFC 8926 3.5): which of ours (contracts/wire.md) a packet bears, in whatever order.
 * Those of others are skipped; what must be understood and is not, refuses the packet. Only packets with options pay.
 */
#ifndef MIZAR_OPTIONS_H
#define MIZAR_OPTIONS_H
#include "outer.h"

struct geneve_option {
	__be16 class;
	uint8_t type;	/* the upper bit: critical */
	uint8_t words;	/* of its data, in the lower five bits */
};

enum option_constant {
	OPTION_CLASS = 0xff01,
	OPTION_CRITICAL = 0x80,
	OPTION_WORDS = 0x1f,
	OPTIONS_BEGIN_LIMIT = 128,
};

enum option_type {
	OPTION_RETURN_TO_SENDER = 0x01,
	OPTION_GROUPS = 0x02,
	OPTION_TRACE = 0x04,
	OPTION_IDENTITY = 0x83,
	OPTION_CONTROL = 0x85,
	OPTION_VIP = 0x86,
};

enum option_present {	/* bits of options.present */
	HAS_ORIGIN = 1,
	HAS_GROUPS = 2,
	HAS_IDENTITY = 4,
	HAS_TRACE = 8,
	HAS_CONTROL = 16,
	HAS_VIP = 32,
};

/* What the options of a packet say. But for `present`, a field means something only where its bit is set. A place
 * (`_at`) counts bytes from the end of the tunnel's header to the data of the option. */
struct options {
	uint32_t present;	/* enum option_present; 0 as long as nobody has walked */
	uint32_t origin[4];	/* RETURN_TO_SENDER: the droplet that the packet set out from, mapped */
	uint32_t group_set;	/* GROUPS: its number in the VPC, 16 bits */
	uint64_t tenant;	/* IDENTITY */
	uint64_t vpc;
	uint16_t origin_at;
	uint16_t control_at;
	uint8_t origin_bytes;	/* 4 or 16 */
	uint8_t control_words;
	uint8_t control_kind;
	uint8_t trace;		/* TRACE: the mark */
	uint8_t vip_words;
	uint16_t vip_at;
	uint16_t pad2[2];
};

/* One option of ours. Of a type that this version does not know nothing is said here. */
static __always_inline __must_check enum drop_reason read_option(struct options *options, uint8_t type,
								 const word32 *data, uint32_t words, uint32_t at)
{
	uint32_t had = options->present;

	switch (type) {
	case OPTION_RETURN_TO_SENDER:
		options->present |= HAS_ORIGIN;
		options->origin_at = at;
		options->origin_bytes = words * 4;
		if (words == 4)
			copy_address(options->origin, data);
		else if (words == 1)
			map_address(options->origin, data[0]);
		else
			return REASON_OPTION_MALFORMED;
		break;
	case OPTION_GROUPS:
		options->present |= HAS_GROUPS;
		if (!words)
			return REASON_OPTION_MALFORMED;
		options->group_set = bpf_ntohl(data[0]) & 0xffff;
		break;
	case OPTION_IDENTITY:
		options->present |= HAS_IDENTITY;
		if (words != 4)
			return REASON_OPTION_MALFORMED;
		options->tenant = (uint64_t)bpf_ntohl(data[0]) << 32 | bpf_ntohl(data[1]);
		options->vpc = (uint64_t)bpf_ntohl(data[2]) << 32 | bpf_ntohl(data[3]);
		break;
	case OPTION_TRACE:
		options->present |= HAS_TRACE;
		options->trace = bpf_ntohl(data[0]);
		break;
	case OPTION_CONTROL:
		options->present |= HAS_CONTROL;
		if (!words)
			return REASON_OPTION_MALFORMED;
		options->control_at = at;
		options->control_words = words;
		options->control_kind = *(const uint8_t *)data;
		break;
	case OPTION_VIP:
		options->present |= HAS_VIP;
		if ((words != 2 && words != 5) || data[0] & bpf_htonl(0xffff))
			return REASON_OPTION_MALFORMED;
		options->vip_at = at;
		options->vip_words = words;
		break;
	default:
		return type & OPTION_CRITICAL ? REASON_GENEVE_CRITICAL_OPTION : REASON_NONE;
	}
	/* Of two there is no telling which one is meant. */
	return options->present == had ? REASON_OPTION_MALFORMED : REASON_NONE;
}

/*
 * The option of ours that begins `begin` + `at` bytes into the frame. Functions of their own for the verifier, this and the
 * next: it looks at one option once, and not once for each place where one may stand.
 */
__attribute__((noinline)) int take_option(struct frame_md *ctx, uint32_t begin, uint32_t at, struct options *options)
{
	void *end = (void *)(long)ctx->data_end;
	struct geneve_option *option;
	word32 read[4] = {};
	uint32_t words;

	if (!options || begin > OPTIONS_BEGIN_LIMIT || at > OPTION_BYTES)
		return REASON_GENEVE_OPTIONS_TRUNCATED;
	option = (void *)(long)ctx->data + begin + at;
	if ((void *)(option + 1) > end)
		return REASON_GENEVE_OPTIONS_TRUNCATED;
	words = option->words & OPTION_WORDS;
	for (uint32_t word = 0; word < 4 && word < words; word++) {
		const word32 *each = (const word32 *)(option + 1) + word;

		if ((void *)(each + 1) > end)
			return REASON_GENEVE_OPTIONS_TRUNCATED;
		read[word] = *each;
	}
	return read_option(options, option->type, read, words, at + sizeof(*option));
}

/* Walks the `option_bytes` that begin `begin` bytes into the frame. It counts bytes and keeps no pointers from step to step. */
__attribute__((noinline)) int walk_options(struct frame_md *ctx, uint32_t begin, uint32_t option_bytes,
					   struct options *options)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	uint32_t at = 0;

	if (!options || begin > OPTIONS_BEGIN_LIMIT || option_bytes > OPTION_BYTES)
		return REASON_GENEVE_OPTIONS_TRUNCATED;
	for (int i = 0; i < OPTION_BYTES / 4 && at < option_bytes; i++) {
		struct geneve_option *option = data + begin + at;
		uint32_t next;

		if ((void *)(option + 1) > end)
			return REASON_GENEVE_OPTIONS_TRUNCATED;
		next = at + sizeof(*option) + (option->words & OPTION_WORDS) * 4;
		if (next > option_bytes)
			return REASON_GENEVE_OPTION_LENGTH;
		if (option->class == bpf_htons(OPTION_CLASS)) {
			int reason = take_option(ctx, begin, at, options);

			if (reason)
				return reason;
		} else if (option->type & OPTION_CRITICAL) {
			return REASON_GENEVE_CRITICAL_OPTION;
		}
		at = next;
	}
	return REASON_NONE;
}

/* What the first hop adds to a packet over IPv4, alone: nearly all that has options on its way. Nothing is walked for it. */
static __always_inline bool take_lone_origin(struct cursor *cursor, struct options *options)
{
	const word32 *option = cursor->at;

	if ((void *)(option + 2) > cursor->end ||
	    option[0] != bpf_htonl(OPTION_CLASS << 16 | OPTION_RETURN_TO_SENDER << 8 | 1))
		return false;
	options->present = HAS_ORIGIN;
	options->origin_at = sizeof(struct geneve_option);
	options->origin_bytes = 4;
	map_address(options->origin, option[1]);
	return true;
}
#endif
