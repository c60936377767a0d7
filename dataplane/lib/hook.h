/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what differs between the two hooks that Transit is compiled for: XDP (transit.c), and tc ingress of an interface that has no
 * XDP (transit_tc.c). Nobody else asks which of both it is. On tc a frame may be a superpacket, of which only the headers
 * are in reach and whose outer lengths nobody has written; the note for `deliver` has no place in front of it, and is
 * in memory of the CPU: the same program goes on with it at once.
 */
#ifndef MIZAR_HOOK_H
#define MIZAR_HOOK_H
#include <linux/if_ether.h>
#include "maps.h"

/* In <linux/bpf.h> since 6.5. */
#define ROOM_DECAP_IPV4 (1ULL << 7)
#define ROOM_DECAP_IPV6 (1ULL << 8)

#ifdef TRANSIT_AT_TC
#include "hook_tc.h"
#else
#include "hook_xdp.h"
#endif
#endif
