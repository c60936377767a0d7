/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what a program hands to those of its functions that the verifier looks at on their own (choose.h, service.h): such a
 * function gets the context alone, and the stack is small. The packet as far as it was read lies in memory of this CPU.
 */
#ifndef MIZAR_SERVICE_WORK_H
#define MIZAR_SERVICE_WORK_H
#include "flow.h"

struct service_work {
	struct packet packet;
	struct transport transport;
	struct flow_key key;
	struct flow flow;	/* to be inserted */
	struct listener_key listener;
	struct route_key inside;
	uint32_t address[4];	/* the member's own */
	uint32_t service;	/* choose_for_*(): slot in services */
	uint32_t member;	/* their answer: slot in members */
	uint32_t inner_at;	/* the inner frame, from the beginning of the frame on */
	uint32_t behind;	/* the inner IP header, from inner_at on */
	uint32_t left;		/* of the cursor there */
	uint8_t kind;		/* of struct inner, as the next two */
	uint8_t protocol;
	uint8_t fragment;
	uint8_t translated;	/* translate_answer(): it was an answer, and is the service's now */
	uint16_t service_port_be;	/* 0: the member's is the same */
	uint16_t other_port_be;	/* to be written in place of the one that is in the packet */
	uint8_t listened;	/* its service has listeners */
	uint8_t outside;	/* the client is on the substrate */
	uint16_t unsure;	/* exchange_destination(): of a sum that may be whole, what is to be taken from it then; 0: nothing */
};

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, service_works, uint32_t, struct service_work, 1, 0);

static __always_inline struct service_work *service_work(void)
{
	uint32_t zero = 0;

	return bpf_map_lookup_elem(&service_works, &zero);
}

/* `inner_at`: where the inner frame begins, from the beginning of the frame on. */
static __always_inline struct service_work *begin_work(uint32_t inner_at, const struct cursor *cursor,
							const struct packet *packet, const struct inner *inner)
{
	struct service_work *work = service_work();

	if (!work)
		return NULL;
	for (uint32_t i = 0; i < sizeof(*packet) / sizeof(word32); i++) {
		((word32 *)&work->packet)[i] = ((const word32 *)packet)[i];
		meet();	/* or clang would keep them all on the stack, which is small */
	}
	work->inner_at = inner_at;
	work->behind = cursor->at - (void *)inner->eth;
	work->left = cursor->left;
	work->kind = inner->kind;
	work->protocol = inner->protocol;
	work->fragment = inner->fragment;
	work->translated = 0;
	work->listened = 0;
	work->outside = 0;
	return work;
}

/* In such a function: the cursor behind the inner IP header, as it was. */
static __always_inline __must_check bool resume(const struct service_work *work, void *frame, void *end,
						struct cursor *cursor, struct inner *inner)
{
	frame += work->inner_at & 0x1ff;
	if (frame + ETH_HLEN + sizeof(struct iphdr) > end)
		return false;
	inner->kind = work->kind;
	inner->protocol = work->protocol;
	inner->fragment = work->fragment;
	inner->eth = frame;
	inner->ip4 = frame + ETH_HLEN;
	cursor->at = frame + (work->behind & 0x7f);
	cursor->end = end;
	cursor->left = work->left;
	return true;
}
#endif
