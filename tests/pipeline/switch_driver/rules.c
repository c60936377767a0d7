// SPDX-License-Identifier: Apache-2.0
/* The rules of the switch and its indirect actions: made, destroyed, asked for hits, aged. */
#include "switch.h"

struct eswitch eswitch = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.flows = TAILQ_HEAD_INITIALIZER(eswitch.flows),
};

static int validate(struct rte_eth_dev *dev __rte_unused, const struct rte_flow_attr *attr,
		    const struct rte_flow_item items[], const struct rte_flow_action actions[],
		    struct rte_flow_error *error)
{
	return check_rule(attr, items, actions, error);
}

static void let_go(struct rte_flow *flow)
{
	if (flow->handle)
		flow->handle->users--;
	if (flow->meter)
		flow->meter->users--;
	free(flow->raw);
	free(flow->rule);
	free(flow);
}

/* What rte_flow_conv() leaves out: the bytes of raw headers. */
static void keep_raw(struct rte_flow *flow)
{
	uint8_t *place = flow->raw = malloc(2 * RAW);

	for (struct rte_flow_action *action = flow->rule->actions; action->type != RTE_FLOW_ACTION_TYPE_END; action++) {
		struct rte_flow_action_raw_encap *encap = (void *)(uintptr_t)action->conf;
		struct rte_flow_action_raw_decap *decap = (void *)(uintptr_t)action->conf;

		if (action->type == RTE_FLOW_ACTION_TYPE_RAW_ENCAP) {
			encap->data = memcpy(place, encap->data, encap->size);
			place += encap->size;
		} else if (action->type == RTE_FLOW_ACTION_TYPE_RAW_DECAP) {
			decap->data = memcpy(place, decap->data, decap->size);
			place += decap->size;
		}
	}
}

/* The meter and the connection that a rule names: 0, or a negative errno. */
static int bind_objects(struct rte_flow *flow, struct rte_flow_error *error)
{
	for (struct rte_flow_action *action = flow->rule->actions; action->type != RTE_FLOW_ACTION_TYPE_END; action++) {
		if (action->type == RTE_FLOW_ACTION_TYPE_METER) {
			struct meter *meter = find_meter(((const struct rte_flow_action_meter *)action->conf)->mtr_id);

			if (!meter || flow->meter || (meter->users && !meter->shared))
				return REFUSE(error, ACTION, NULL, "no such meter, a second one, or one that is not shared");
			meter->users++;
			flow->meter = meter;
		} else if (action->type == RTE_FLOW_ACTION_TYPE_INDIRECT) {
			if (flow->handle)
				return REFUSE(error, ACTION, NULL, "two indirect actions");
			flow->handle = (void *)(uintptr_t)action->conf;
			flow->handle->users++;
			flow->original = flow->handle->conntrack.is_original_dir;
		}
	}
	return 0;
}

static bool is_twin(const struct rte_flow *one, const struct rte_flow *other)
{
	const struct rte_flow_attr *a = one->rule->attr_ro, *b = other->rule->attr_ro;
	const struct rte_flow_item *x = one->rule->pattern_ro, *y = other->rule->pattern_ro;

	if (a->group != b->group || a->priority != b->priority || a->ingress != b->ingress)
		return false;
	for (; x->type == y->type && x->type != RTE_FLOW_ITEM_TYPE_END; x++, y++) {
		uint32_t bytes = header_bytes(x->type) + (header_bytes(x->type) ? 4 : 0);

		if (!bytes)
			bytes = x->type == RTE_FLOW_ITEM_TYPE_TAG ? sizeof(struct rte_flow_item_tag) : 4;
		if (header_bytes(x->type) && x->type != RTE_FLOW_ITEM_TYPE_ETH && x->type != RTE_FLOW_ITEM_TYPE_VLAN)
			bytes -= 4;
		if (!x->spec != !y->spec ||
		    (x->spec && (memcmp(x->spec, y->spec, bytes) || memcmp(x->mask, y->mask, bytes))))
			return false;
	}
	return x->type == y->type;
}

static struct rte_flow *create(struct rte_eth_dev *dev, const struct rte_flow_attr *attr,
			       const struct rte_flow_item items[], const struct rte_flow_action actions[],
			       struct rte_flow_error *error)
{
	struct rte_flow_conv_rule rule = { { .attr_ro = attr }, { .pattern_ro = items }, { .actions_ro = actions } };
	struct rte_flow *flow, *other;
	int size;

	if (check_rule(attr, items, actions, error))
		return NULL;
	size = rte_flow_conv(RTE_FLOW_CONV_OP_RULE, NULL, 0, &rule, error);
	if (size < 0)
		return NULL;
	flow = calloc(1, sizeof(*flow));
	flow->rule = calloc(1, size);
	rte_flow_conv(RTE_FLOW_CONV_OP_RULE, flow->rule, size, &rule, error);
	keep_raw(flow);
	flow->port = dev->data->port_id;
	pthread_mutex_lock(&eswitch.lock);
	if (bind_objects(flow, error))
		goto refused;
	TAILQ_FOREACH(other, &eswitch.flows, next)
		if (is_twin(flow, other)) {
			rte_flow_error_set(error, EEXIST, RTE_FLOW_ERROR_TYPE_ITEM, NULL, "another rule has this pattern");
			goto refused;
		}
	flow->number = eswitch.made++;
	flow->last_ns = eswitch.now_ns;
	TAILQ_INSERT_TAIL(&eswitch.flows, flow, next);
	pthread_mutex_unlock(&eswitch.lock);
	return flow;
refused:
	let_go(flow);
	pthread_mutex_unlock(&eswitch.lock);
	return NULL;
}

static int destroy(struct rte_eth_dev *dev __rte_unused, struct rte_flow *flow,
		   struct rte_flow_error *error __rte_unused)
{
	pthread_mutex_lock(&eswitch.lock);
	TAILQ_REMOVE(&eswitch.flows, flow, next);
	let_go(flow);
	pthread_mutex_unlock(&eswitch.lock);
	return 0;
}

static int flush(struct rte_eth_dev *dev, struct rte_flow_error *error)
{
	struct rte_flow *flow, *following;

	for (flow = TAILQ_FIRST(&eswitch.flows); flow; flow = following) {
		following = TAILQ_NEXT(flow, next);
		if (flow->port == dev->data->port_id)
			destroy(dev, flow, error);
	}
	return 0;
}

static int query(struct rte_eth_dev *dev __rte_unused, struct rte_flow *flow, const struct rte_flow_action *action,
		 void *data, struct rte_flow_error *error)
{
	struct rte_flow_query_count *count = data;

	if (action->type != RTE_FLOW_ACTION_TYPE_COUNT)
		return REFUSE(error, ACTION, action, "only counters can be asked");
	count->hits_set = count->bytes_set = 1;
	count->hits = flow->hits;
	count->bytes = flow->bytes;
	return 0;
}

/* Rules whose age is over, each told once until it is hit again. */
static int aged(struct rte_eth_dev *dev, void **contexts, uint32_t room, struct rte_flow_error *error __rte_unused)
{
	struct rte_flow *flow;
	uint32_t found = 0;

	pthread_mutex_lock(&eswitch.lock);
	TAILQ_FOREACH(flow, &eswitch.flows, next) {
		const struct rte_flow_action *action = flow->rule->actions_ro;

		while (action->type != RTE_FLOW_ACTION_TYPE_AGE && action->type != RTE_FLOW_ACTION_TYPE_END)
			action++;
		if (action->type == RTE_FLOW_ACTION_TYPE_END || flow->told || flow->port != dev->data->port_id)
			continue;
		const struct rte_flow_action_age *age = action->conf;

		if (eswitch.now_ns - flow->last_ns <= age->timeout * 1000000000ull)
			continue;
		if (contexts && found < room) {
			contexts[found] = age->context ? age->context : flow;
			flow->told = true;
		}
		found++;
	}
	pthread_mutex_unlock(&eswitch.lock);
	return found;
}

static struct rte_flow_action_handle *handle_create(struct rte_eth_dev *dev __rte_unused,
						    const struct rte_flow_indir_action_conf *conf,
						    const struct rte_flow_action *action, struct rte_flow_error *error)
{
	struct rte_flow_action_handle *made;

	if (action->type != RTE_FLOW_ACTION_TYPE_CONNTRACK || !conf->transfer) {
		REFUSE(error, ACTION, action, "only conntrack of the switch (transfer) can be indirect");
		return NULL;
	}
	if (check_conntrack(action->conf, error))
		return NULL;
	made = calloc(1, sizeof(*made));
	made->conntrack = *(const struct rte_flow_action_conntrack *)action->conf;
	LIST_INSERT_HEAD(&eswitch.handles, made, next);
	return made;
}

static int handle_destroy(struct rte_eth_dev *dev __rte_unused, struct rte_flow_action_handle *handle,
			  struct rte_flow_error *error)
{
	if (handle->users)
		return REFUSE(error, HANDLE, handle, "rules use it");
	LIST_REMOVE(handle, next);
	free(handle);
	return 0;
}

static int handle_update(struct rte_eth_dev *dev __rte_unused, struct rte_flow_action_handle *handle,
			 const void *update, struct rte_flow_error *error)
{
	const struct rte_flow_modify_conntrack *new = update;

	if (new->state)
		return REFUSE(error, ACTION_CONF, update, "only the direction can be updated");
	if (new->direction)
		handle->conntrack.is_original_dir = new->new_ct.is_original_dir;
	return 0;
}

const struct rte_flow_ops switch_flow_ops = {
	.validate = validate,
	.create = create,
	.destroy = destroy,
	.flush = flush,
	.query = query,
	.get_aged_flows = aged,
	.dev_dump = switch_dump,
	.action_handle_create = handle_create,
	.action_handle_destroy = handle_destroy,
	.action_handle_update = handle_update,
};
