/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the question whether any network of a VPC has an ACL: all that a packet of a VPC without one pays for them.
 */
#ifndef MIZAR_ACL_VPCS_H
#define MIZAR_ACL_VPCS_H
#include "maps.h"

static __always_inline bool has_acls(uint32_t vpc_slot)
{
	const uint32_t *found = bpf_map_lookup_elem(&acl_vpcs, &vpc_slot);

	return found && *found;
}
#endif
