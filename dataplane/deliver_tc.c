/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* deliver_tc: deliver.c behind transit_tc, which ends in it. */
#define TRANSIT_AT_TC
#include "deliver.c"
