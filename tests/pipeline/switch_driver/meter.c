// SPDX-License-Identifier: Apache-2.0
/* Meters: single-rate token buckets in packets (RFC 2697 without the excess bucket) whose policy drops what is red. */
#include "switch.h"

#define NO(what) rte_mtr_error_set(error, ENOTSUP, RTE_MTR_ERROR_TYPE_UNSPECIFIED, NULL, what)
#define SECOND_NS 1000000000ull

#define FIND(type, list)                                                                                               \
	static struct type *find_##type(uint32_t id)                                                                  \
	{                                                                                                              \
		struct type *one;                                                                                      \
		LIST_FOREACH(one, &eswitch.list, next)                                                                 \
			if (one->id == id)                                                                             \
				return one;                                                                            \
		return NULL;                                                                                           \
	}

FIND(meter_profile, profiles)
FIND(meter_policy, policies)

struct meter *find_meter(uint32_t id)
{
	struct meter *one;

	LIST_FOREACH(one, &eswitch.meters, next)
		if (one->id == id)
			return one;
	return NULL;
}

bool meter_passes(struct meter *meter, const struct frame *frame)
{
	uint64_t full = meter->profile->burst * SECOND_NS, passed = frame->now_ns - meter->filled_ns;

	if (!meter->filled || passed >= full / meter->profile->rate)
		meter->tokens = full;
	else
		meter->tokens = RTE_MIN(full, meter->tokens + passed * meter->profile->rate);
	meter->filled = true;
	meter->filled_ns = frame->now_ns;
	if (meter->tokens >= SECOND_NS) {
		meter->tokens -= SECOND_NS;
		return true;
	}
	meter->dropped_packets++;
	meter->dropped_bytes += frame->length;
	return false;
}

static int capabilities(struct rte_eth_dev *dev __rte_unused, struct rte_mtr_capabilities *cap,
			struct rte_mtr_error *error __rte_unused)
{
	*cap = (struct rte_mtr_capabilities){
		.n_max = UINT16_MAX,
		.n_shared_max = UINT16_MAX,
		.identical = 1,
		.shared_identical = 1,
		.shared_n_flows_per_mtr_max = UINT16_MAX,
		.meter_srtcm_rfc2697_n_max = UINT16_MAX,
		.meter_rate_max = UINT64_MAX,
		.meter_policy_n_max = UINT16_MAX,
		.srtcm_rfc2697_packet_mode_supported = 1,
	};
	return 0;
}

static int profile_add(struct rte_eth_dev *dev __rte_unused, uint32_t id, struct rte_mtr_meter_profile *profile,
		       struct rte_mtr_error *error)
{
	struct meter_profile *made;

	if (profile->alg != RTE_MTR_SRTCM_RFC2697 || !profile->packet_mode)
		return NO("only srtcm_rfc2697 of packets");
	if (!profile->srtcm_rfc2697.cir || !profile->srtcm_rfc2697.cbs || profile->srtcm_rfc2697.ebs)
		return NO("a rate and a burst are needed, and no excess burst: yellow would pass");
	if (find_meter_profile(id))
		return NO("this profile exists");
	made = calloc(1, sizeof(*made));
	made->id = id;
	made->rate = profile->srtcm_rfc2697.cir;
	made->burst = profile->srtcm_rfc2697.cbs;
	LIST_INSERT_HEAD(&eswitch.profiles, made, next);
	return 0;
}

/* What is green and yellow goes on in its rule, what is red is dropped: nothing else is understood. */
static int policy_validate(struct rte_eth_dev *dev __rte_unused, struct rte_mtr_meter_policy_params *policy,
			   struct rte_mtr_error *error)
{
	for (enum rte_color color = RTE_COLOR_GREEN; color < RTE_COLORS; color++) {
		const struct rte_flow_action *action = policy->actions[color];
		enum rte_flow_action_type first = action ? action->type : RTE_FLOW_ACTION_TYPE_END;

		if (first != (color == RTE_COLOR_RED ? RTE_FLOW_ACTION_TYPE_DROP : RTE_FLOW_ACTION_TYPE_END))
			return NO("a policy has to drop red and to do nothing else");
	}
	return 0;
}

static int policy_add(struct rte_eth_dev *dev, uint32_t id, struct rte_mtr_meter_policy_params *policy,
		      struct rte_mtr_error *error)
{
	struct meter_policy *made;
	int status = policy_validate(dev, policy, error);

	if (status)
		return status;
	if (find_meter_policy(id))
		return NO("this policy exists");
	made = calloc(1, sizeof(*made));
	made->id = id;
	LIST_INSERT_HEAD(&eswitch.policies, made, next);
	return 0;
}

static int create(struct rte_eth_dev *dev __rte_unused, uint32_t id, struct rte_mtr_params *params, int shared,
		  struct rte_mtr_error *error)
{
	struct meter_profile *profile = find_meter_profile(params->meter_profile_id);
	struct meter_policy *policy = find_meter_policy(params->meter_policy_id);
	struct meter *made;

	if (!profile || !policy)
		return NO("the profile or the policy does not exist");
	if (!params->meter_enable || params->use_prev_mtr_color || params->default_input_color != RTE_COLOR_GREEN)
		return NO("a meter has to be enabled, and every frame comes to it green");
	if (find_meter(id))
		return NO("this meter exists");
	made = calloc(1, sizeof(*made));
	made->id = id;
	made->shared = shared;
	made->profile = profile;
	made->policy = policy;
	profile->users++;
	policy->users++;
	LIST_INSERT_HEAD(&eswitch.meters, made, next);
	return 0;
}

static int destroy(struct rte_eth_dev *dev __rte_unused, uint32_t id, struct rte_mtr_error *error)
{
	struct meter *meter = find_meter(id);

	if (!meter || meter->users)
		return NO("there is no such meter, or rules use it");
	meter->profile->users--;
	meter->policy->users--;
	LIST_REMOVE(meter, next);
	free(meter);
	return 0;
}

static int profile_delete(struct rte_eth_dev *dev __rte_unused, uint32_t id, struct rte_mtr_error *error)
{
	struct meter_profile *profile = find_meter_profile(id);

	if (!profile || profile->users)
		return NO("there is no such profile, or meters use it");
	LIST_REMOVE(profile, next);
	free(profile);
	return 0;
}

static int policy_delete(struct rte_eth_dev *dev __rte_unused, uint32_t id, struct rte_mtr_error *error)
{
	struct meter_policy *policy = find_meter_policy(id);

	if (!policy || policy->users)
		return NO("there is no such policy, or meters use it");
	LIST_REMOVE(policy, next);
	free(policy);
	return 0;
}

static int stats_read(struct rte_eth_dev *dev __rte_unused, uint32_t id, struct rte_mtr_stats *stats, uint64_t *mask,
		      int clear, struct rte_mtr_error *error)
{
	struct meter *meter = find_meter(id);

	if (!meter)
		return NO("there is no such meter");
	*mask = RTE_MTR_STATS_N_PKTS_DROPPED | RTE_MTR_STATS_N_BYTES_DROPPED;
	stats->n_pkts_dropped = meter->dropped_packets;
	stats->n_bytes_dropped = meter->dropped_bytes;
	if (clear)
		meter->dropped_packets = meter->dropped_bytes = 0;
	return 0;
}

const struct rte_mtr_ops switch_meter_ops = {
	.capabilities_get = capabilities,
	.meter_profile_add = profile_add,
	.meter_profile_delete = profile_delete,
	.meter_policy_validate = policy_validate,
	.meter_policy_add = policy_add,
	.meter_policy_delete = policy_delete,
	.create = create,
	.destroy = destroy,
	.stats_read = stats_read,
};
