/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what a tenant's count of connections becomes when one of them ends. Included behind the declaration of nat_tenants. A count
 * that was wrong already must not fall below none: it would be of four billion, and the tenant could begin nothing more.
 */
#ifndef MIZAR_GATEWAY_LEAVE_TENANT_H
#define MIZAR_GATEWAY_LEAVE_TENANT_H

static __always_inline void leave_tenant(uint32_t meta)
{
	struct nat_tenant *tenant = bpf_map_lookup_elem(&nat_tenants, &meta);

	if (tenant && !__sync_fetch_and_add(&tenant->in_use, -1))
		__sync_fetch_and_add(&tenant->in_use, 1);
}
#endif
