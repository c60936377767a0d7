// SPDX-License-Identifier: Apache-2.0
/*
 * Says what the switch was given (`flow dump PORT all FILE`), one rule a line, in bytes and numbers as they arrived:
 *
 *     transfer group 1 priority 1 | eth <spec>/<mask> | ... > jump <group> > ...
 */
#include "switch.h"

static void hex(FILE *file, const void *data, size_t count)
{
	const uint8_t *bytes = data;

	while (count--)
		fprintf(file, "%02x", *bytes++);
}

static void dump_item(FILE *file, const struct rte_flow_item *item)
{
	const char *name = NULL;
	uint32_t bytes = header_bytes(item->type);

	rte_flow_conv(RTE_FLOW_CONV_OP_ITEM_NAME_PTR, &name, sizeof(name), (void *)(uintptr_t)item->type, NULL);
	fprintf(file, " | %s", name);
	if (!item->spec)
		return;
	if (item->type == RTE_FLOW_ITEM_TYPE_TAG)
		bytes = 5;	/* the index stands behind the number */
	else if (!bytes || item->type == RTE_FLOW_ITEM_TYPE_VLAN)
		bytes += 4;
	else if (item->type == RTE_FLOW_ITEM_TYPE_ETH)
		bytes = sizeof(struct rte_flow_item_eth);
	fprintf(file, " ");
	hex(file, item->spec, bytes);
	fprintf(file, "/");
	hex(file, item->mask, bytes);
}

static void dump_action(FILE *file, const struct rte_flow *flow, const struct rte_flow_action *action)
{
	const struct rte_flow_action_modify_field *field = action->conf;
	const struct rte_flow_action_raw_encap *encap = action->conf;
	const struct rte_flow_action_raw_decap *decap = action->conf;
	const struct rte_flow_action_set_meta *meta = action->conf;
	const struct rte_flow_action_set_tag *tag = action->conf;
	const struct rte_flow_action_age *age = action->conf;
	const char *name = NULL;

	rte_flow_conv(RTE_FLOW_CONV_OP_ACTION_NAME_PTR, &name, sizeof(name), (void *)(uintptr_t)action->type, NULL);
	fprintf(file, " > %s", action->type == RTE_FLOW_ACTION_TYPE_INDIRECT ? "CONNTRACK" : name);
	switch (action->type) {
	case RTE_FLOW_ACTION_TYPE_INDIRECT:
		fprintf(file, " %s", flow->original ? "original" : "reply");
		break;
	case RTE_FLOW_ACTION_TYPE_MODIFY_FIELD:
		fprintf(file, " %d %d %u ", field->dst.field, field->src.field, field->width);
		if (field->src.field == RTE_FLOW_FIELD_VALUE)
			hex(file, field->src.value, (field->width + 7) / 8);
		break;
	case RTE_FLOW_ACTION_TYPE_RAW_ENCAP:
		fprintf(file, " ");
		hex(file, encap->data, encap->size);
		break;
	case RTE_FLOW_ACTION_TYPE_RAW_DECAP:
		fprintf(file, " %zu", decap->size);
		break;
	case RTE_FLOW_ACTION_TYPE_SET_META:
		fprintf(file, " %08x/%08x", meta->data, meta->mask);
		break;
	case RTE_FLOW_ACTION_TYPE_SET_TAG:
		fprintf(file, " %u %08x/%08x", tag->index, tag->data, tag->mask);
		break;
	case RTE_FLOW_ACTION_TYPE_AGE:
		fprintf(file, " %u", age->timeout);
		break;
	case RTE_FLOW_ACTION_TYPE_JUMP:
	case RTE_FLOW_ACTION_TYPE_COUNT:
	case RTE_FLOW_ACTION_TYPE_METER:
		fprintf(file, " %u", *(const uint32_t *)action->conf);
		break;
	case RTE_FLOW_ACTION_TYPE_QUEUE:
	case RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT:
	case RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR:
		fprintf(file, " %u", *(const uint16_t *)action->conf);
		break;
	default:
		break;
	}
}

int switch_dump(struct rte_eth_dev *dev __rte_unused, struct rte_flow *only, FILE *file,
		struct rte_flow_error *error __rte_unused)
{
	struct rte_flow *flow;

	TAILQ_FOREACH(flow, &eswitch.flows, next) {
		const struct rte_flow_attr *attr = flow->rule->attr_ro;

		if (only && only != flow)
			continue;
		fprintf(file, "%s group %u priority %u", attr->transfer ? "transfer" : "ingress", attr->group,
			attr->priority);
		for (const struct rte_flow_item *item = flow->rule->pattern_ro; item->type; item++)
			dump_item(file, item);
		for (const struct rte_flow_action *action = flow->rule->actions_ro; action->type; action++)
			dump_action(file, flow, action);
		fprintf(file, "\n");
	}
	return 0;
}
