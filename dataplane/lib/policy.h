/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the judging of what a policed endpoint sends and is sent (docs/policy.md, "How a packet is judged"). A packet of a known
 * flow costs one lookup and is judged no further; all others ask the rules. Never changes a packet.
 */
#ifndef MIZAR_POLICY_H
#define MIZAR_POLICY_H
#include "counters.h"
#include "event.h"
#include "policy_begun.h"
#include "policy_read.h"

_Static_assert((int)POLICY_AUDIT_INGRESS == (int)POLICY_INGRESS && (int)POLICY_AUDIT_EGRESS == (int)POLICY_EGRESS,
	       "flags of a record are asked for by direction");

/* Whose policy, and what of the packet only the caller knows, in a word. */
enum policy_who {		/* bits of: */
	WHO_GROUP_SET = 32,	/* 16 bits; 0 where the packet bears none, or one of another VPC */
	WHO_DIRECTION = 48,	/* enum policy_direction */
	WHO_HOOK = 56,		/* enum hook */
};

static __always_inline uint64_t policy_who(uint32_t slot, enum policy_direction direction, uint16_t group_set,
					   enum hook hook)
{
	return (uint64_t)slot | (uint64_t)group_set << WHO_GROUP_SET | (uint64_t)direction << WHO_DIRECTION |
	       (uint64_t)hook << WHO_HOOK;
}

/* Of an endpoint or member of this droplet. */
static __always_inline bool is_policed(const struct endpoint *endpoint, bool member)
{
	return endpoint->flags & (member ? MEMBER_POLICED : ENDPOINT_POLICED);
}

enum verdict_bits {		/* prefix_bits of what is asked */
	VERDICT_PROTOCOL_BITS = 72,
	VERDICT_PORT_BITS = 88,
};

static __always_inline const struct policy_verdict *verdict_of(struct policy_work *work, uint32_t class)
{
	work->asked.class_be = bpf_htonl(class);
	return bpf_map_lookup_elem(&policy_verdicts, &work->asked);
}

/* Of the peer's two classes, the verdict with the lower rank. work->peer has the address. */
static __always_inline const struct policy_verdict *find_verdict(struct policy_work *work, uint32_t set,
								 uint16_t group_set)
{
	const struct policy_verdict *first, *second;
	const uint32_t *class;

	work->peer.prefix_bits = 32 + 128;
	work->peer.set_be = work->asked.set_be = bpf_htonl(set);
	class = bpf_map_lookup_elem(&policy_peers, &work->peer);
	first = verdict_of(work, class ? *class : 0);
	if (!group_set)
		return first;
	work->group = (struct policy_group_key){ .set = set, .group_set = group_set };
	class = bpf_map_lookup_elem(&policy_groups, &work->group);
	if (!class)
		return first;
	second = verdict_of(work, *class);
	if (!second || (first && first->rank <= second->rank))
		return first;
	return second;
}

/* What the rules of one direction say: NONE, or why not, which audit mode turns into a telling. */
static __always_inline enum drop_reason ask_rules(struct policy_work *work, const struct endpoint_policy *policy,
						  uint32_t direction)
{
	uint32_t set = direction == POLICY_INGRESS ? policy->ingress : policy->egress;
	const struct policy_verdict *verdict;

	work->rule = 0;
	work->action = POLICY_ALLOW;
	if (!set)
		return REASON_NONE;
	verdict = find_verdict(work, set, direction == POLICY_INGRESS ? work->group_set : 0);
	if (!verdict) {
		work->action = policy->flags & direction ? POLICY_AUDIT : 0;
		return direction == POLICY_INGRESS ? REASON_POLICY_INGRESS_DEFAULT : REASON_POLICY_EGRESS_DEFAULT;
	}
	work->rule = verdict->rule;
	work->action = verdict->action;
	if (verdict->action & POLICY_ALLOW)
		return REASON_NONE;
	return direction == POLICY_INGRESS ? REASON_POLICY_INGRESS_DENIED : REASON_POLICY_EGRESS_DENIED;
}

/* Of a packet that the rules refuse: in audit mode it passes, and is told of. */
static __always_inline enum drop_reason enforce(struct policy_work *work, enum drop_reason reason)
{
	if (!(reason && work->action & POLICY_AUDIT))
		return reason;
	work->told = EVENT_AUDITED;
	work->audited = reason;
	return REASON_NONE;
}

static __always_inline void write_begun(struct policy_flow *flow, const struct policy_work *work, uint32_t direction)
{
	flow->rule = work->rule;
	flow->group_set = direction == POLICY_INGRESS ? work->group_set : 0;
	flow->begun = direction | (work->action & POLICY_KEEP ? POLICY_FLOW_KEPT : 0);
	meet();	/* who sees the generation sees the rest */
	flow->generation = work->generation;
}

/* Whether the VPC had room for work->flow. */
static __always_inline bool insert_policy_flow(struct policy_work *work, uint32_t vpc_slot)
{
	struct flow_budget *budget = bpf_map_lookup_elem(&policy_budgets, &vpc_slot);
	struct flow_count *count = bpf_map_lookup_elem(&policy_counts, &vpc_slot);

	if (!budget || !count || count->inserted >= budget->until)
		return false;
	work->flow.vpc_slot = vpc_slot;
	work->flow.stamp = flow_tick();
	if (bpf_map_update_elem(&policy_flows, &work->key, &work->flow, BPF_NOEXIST))
		return bpf_map_lookup_elem(&policy_flows, &work->key);	/* another CPU was faster, or the map is full */
	__sync_fetch_and_add(&count->inserted, 1);
	work->found |= POLICED_BEGUN;
	return true;
}

/* `state`: what is known of it beside what its first packet says. */
static __always_inline enum drop_reason begin_policy_flow(struct policy_work *work, struct policy_flow *stale,
							  const struct packet *packet, uint8_t state)
{
	state |= work->found & POLICED_CLOSES ? POLICY_FLOW_CLOSING : 0;
	if (stale) {
		stale->state = state;
		stale->stamp = flow_tick();
		write_begun(stale, work, work->direction);
		return REASON_NONE;
	}
	work->flow = (struct policy_flow){ .state = state };
	write_begun(&work->flow, work, work->direction);
	return insert_policy_flow(work, packet->vpc_slot) ? REASON_NONE : REASON_POLICY_FLOWS_FULL;
}

/* A flow that was judged by another generation, or whose peer has other groups now. */
static __always_inline enum drop_reason judge_again(struct policy_work *work, struct policy_flow *flow,
						    const struct endpoint_policy *policy)
{
	const uint32_t begun = flow->begun & POLICY_FLOW_DIRECTION;
	enum drop_reason reason;

	if (work->direction != POLICY_INGRESS)
		work->group_set = flow->group_set;
	reason = enforce(work, ask_rules(work, policy, begun));
	if (!reason) {
		write_begun(flow, work, begun);
		return REASON_NONE;
	}
	flow->group_set = begun == POLICY_INGRESS ? work->group_set : 0;
	if (!(flow->begun & POLICY_FLOW_KEPT)) {
		flow->begun |= POLICY_FLOW_ENDED;
		flow->rule = work->rule;
	} else {
		reason = REASON_NONE;
	}
	meet();
	flow->generation = work->generation;
	return reason;
}

/* Nothing is written where nothing changed. `answer`: it goes the other way than the flow's first packet. */
static __always_inline void touch_policy_flow(const struct policy_work *work, struct policy_flow *flow, uint32_t found,
					      bool answer)
{
	uint32_t jiffies = bpf_jiffies64() >> 8;
	uint8_t state = flow->state;

	if (found & POLICED_BEGINS)
		state = 0;
	if (answer)
		state |= POLICY_FLOW_ANSWERED;
	if (found & POLICED_CLOSES)
		state |= POLICY_FLOW_CLOSING;
	if (state != flow->state) {
		flow->state = state;
		if (state & POLICY_FLOW_ONE_ANSWER) {	/* this is the one */
			forget_policy_flow(&work->key, flow->vpc_slot);
			return;
		}
	}
	if (flow->jiffies != jiffies) {	/* a load; the clock is a call */
		flow->jiffies = jiffies;
		flow->stamp = flow_tick();
	}
}

/* Of the endpoint that has the slot now. */
static __always_inline bool is_current(const struct policy_flow *flow, const struct endpoint_policy *policy)
{
	return (int32_t)(flow->generation - policy->since) >= 0;
}

static __always_inline void ask_for(struct policy_work *work, uint32_t direction, bool again)
{
	const struct policy_flow_key *key = &work->key;
	uint16_t port_be = direction == POLICY_INGRESS ? key->own_port_be : key->peer_port_be;

	/* What an answer is an answer to. */
	if (work->found & POLICED_MESSAGE && again)
		port_be = key->protocol == IPPROTO_ICMP ? bpf_htons(ECHO4_REQUEST << 8) : bpf_htons(ICMPV6_ECHO_REQUEST << 8);
	else if (work->found & POLICED_MESSAGE)
		port_be = work->message_be;
	work->asked.prefix_bits = work->found & (POLICED_PORTS | POLICED_MESSAGE) ? VERDICT_PORT_BITS :
									    VERDICT_PROTOCOL_BITS;
	work->asked.protocol = key->protocol;
	work->asked.port_be[0] = bpf_ntohs(port_be) >> 8;
	work->asked.port_be[1] = bpf_ntohs(port_be);
}

static __always_inline bool is_from_lower_port(const struct policy_work *work)
{
	const struct policy_flow_key *key = &work->key;
	uint16_t own = bpf_ntohs(key->own_port_be), peer = bpf_ntohs(key->peer_port_be);

	return work->direction == POLICY_INGRESS ? peer < own : own < peer;
}

static __always_inline bool is_refused_by_rules(int reason)
{
	return reason >= REASON_POLICY_INGRESS_DENIED && reason <= REASON_POLICY_EGRESS_DEFAULT;
}

/*
 * A packet of no flow that is known as it is, by the rules. A function of its own for the verifier, which then looks at it
 * once and not once for each way that leads here.
 */
__noinline int judge_packet(const struct packet *packet, uint32_t slot, struct policy_work *work)
{
	struct endpoint_policy *policy = bpf_map_lookup_elem(&endpoint_policies, &slot);
	struct policy_flow *flow = NULL;
	enum drop_reason reason;
	bool again = false;

	if (!packet || !policy || !work)
		return REASON_POLICY_UNREADABLE;
	work->generation = *(volatile uint32_t *)&policy->generation;
	meet();	/* the sets are at least as new */
	if (work->direction == POLICY_INGRESS)
		copy_address(work->peer.addr, packet->src);
	else
		copy_address(work->peer.addr, packet->to.addr);
	if ((work->found & POLICED_KIND) == POLICED_FLOW) {
		flow = bpf_map_lookup_elem(&policy_flows, &work->key);
		again = flow && is_current(flow, policy);
		if (again && work->found & POLICED_BEGINS)
			again = (flow->begun & (POLICY_FLOW_DIRECTION | POLICY_FLOW_ENDED)) == work->direction;
	}
	if (flow && again) {
		ask_for(work, flow->begun & POLICY_FLOW_DIRECTION, true);
		reason = judge_again(work, flow, policy);
		touch_policy_flow(work, flow, work->found, (flow->begun & POLICY_FLOW_DIRECTION) != work->direction);
		return reason;
	}
	ask_for(work, work->direction, false);
	reason = ask_rules(work, policy, work->direction);
	if (!reason && work->action & POLICY_LOG)
		work->told = EVENT_ALLOWED;
	reason = enforce(work, reason);
	if (reason || (work->found & POLICED_KIND) != POLICED_FLOW)
		return reason;
	reason = begin_policy_flow(work, flow, packet, 0);
	if (!reason || work->told == EVENT_AUDITED)	/* the latter passes all the same */
		return REASON_NONE;
	work->told = 0;
	return reason;
}

/*
 * A packet of no flow that the rules refuse, soon after the endpoint's first policy: it may be an answer within a flow that is older.
 * It begins that flow the other way round where rules allow that by name. Where no policy selects that direction, only a segment of TCP
 * does, from the lower of both ports, which is taken for the server's: or else whoever is refused now could go on as it did.
 * NONE, or `reason`, with what the refusing rule has left in `work`.
 */
__noinline int judge_as_answer(const struct packet *packet, uint32_t slot, struct policy_work *work, uint32_t reason)
{
	struct endpoint_policy *policy = bpf_map_lookup_elem(&endpoint_policies, &slot);
	uint32_t begun, set, rule, action;
	struct policy_flow *flow;

	if (!packet || !policy || !work || (int32_t)(policy->grace_until - flow_tick()) <= 0)
		return reason;
	begun = work->direction == POLICY_INGRESS ? POLICY_EGRESS : POLICY_INGRESS;
	set = begun == POLICY_INGRESS ? policy->ingress : policy->egress;
	if (!set && (work->key.protocol != IPPROTO_TCP || !is_from_lower_port(work)))
		return reason;
	flow = bpf_map_lookup_elem(&policy_flows, &work->key);
	if (flow && is_current(flow, policy))
		return reason;
	rule = work->rule;
	action = work->action;
	work->group_set = 0;	/* of a peer that has sent nothing yet */
	ask_for(work, begun, true);
	if (ask_rules(work, policy, begun)) {
		work->rule = rule;
		work->action = action;
		return reason;
	}
	work->told = work->action & POLICY_LOG ? EVENT_ALLOWED : 0;
	work->direction = begun;
	reason = begin_policy_flow(work, flow, packet, POLICY_FLOW_ANSWERED);
	if (reason)
		work->told = 0;
	return reason;
}

/* Lets fragments pass that follow an allowed first one: an entry without ports stands for all of them. */
__noinline int admit_fragments(const struct packet *packet, uint32_t slot, uint32_t direction, struct policy_work *work)
{
	struct endpoint_policy *policy = bpf_map_lookup_elem(&endpoint_policies, &slot);
	struct policy_flow *flow;
	uint32_t generation;

	if (!packet || !policy || !work)
		return 0;
	generation = policy->generation;
	work->key.later = 1;
	write_identifier(&work->key, 0);
	work->found &= ~POLICED_BEGUN;	/* whose key that is not */
	flow = bpf_map_lookup_elem(&policy_flows, &work->key);
	if (flow) {
		flow->generation = generation;
		flow->stamp = flow_tick();
		return 0;
	}
	work->flow = (struct policy_flow){ .generation = generation, .begun = direction & POLICY_FLOW_DIRECTION };
	if (!insert_policy_flow(work, packet->vpc_slot))
		return 1;
	work->found &= ~POLICED_BEGUN;	/* of all fragments, not of this one */
	return 0;
}

static __always_inline uint32_t read_packet(void *frame, void *end, const struct packet *packet, uint64_t who)
{
	const bool ingress = (who >> WHO_DIRECTION & POLICY_FLOW_DIRECTION) == POLICY_INGRESS;
	struct policy_work *work = policy_work();

	if (!packet || !work)
		return POLICED_UNREADABLE;
	work->key.vni = packet->to.vni;
	work->key.slot = who;
	write_identifier(&work->key, 0);
	if (ingress)
		copy_address(work->key.peer, packet->src);
	else
		copy_address(work->key.peer, packet->to.addr);
	return read_policed(frame, end, packet, is_mapped(packet->src), ingress, work);
}

/* What the packet is, with the key of its flow in this CPU's policy_work: the first of three steps. Functions of their own for those
 * who go on otherwise than by the endpoint's policy, see network_acl.h. */
__noinline int read_skb(struct __sk_buff *skb, const struct packet *packet, uint64_t who)
{
	return read_packet((void *)(long)skb->data, (void *)(long)skb->data_end, packet, who);
}

__noinline int read_frame(struct xdp_md *ctx, const struct packet *packet, uint64_t who)
{
	return read_packet((void *)(long)ctx->data, (void *)(long)ctx->data_end, packet, who);
}

/* Whether the packet is of a flow that is known and current, and no rule is to be asked: then `ended` says that it is refused. */
static __always_inline bool is_known(struct policy_work *work, const struct endpoint_policy *policy, uint64_t who,
				     uint32_t found, bool *ended)
{
	const uint32_t kind = found & POLICED_KIND, direction = who >> WHO_DIRECTION & POLICY_FLOW_DIRECTION;
	struct policy_flow *flow = bpf_map_lookup_elem(&policy_flows, &work->key);
	uint32_t begun;

	if (!flow || !is_current(flow, policy))
		return false;
	*ended = flow->begun & POLICY_FLOW_ENDED;
	if (kind == POLICED_ERROR)
		return !*ended;
	if (flow->generation != *(const volatile uint32_t *)&policy->generation)
		return false;
	begun = flow->begun & POLICY_FLOW_DIRECTION;
	if (kind == POLICED_FLOW) {
		if (found & POLICED_BEGINS && (*ended || begun != direction))
			return false;
		if (begun == direction && begun == POLICY_INGRESS && flow->group_set != (uint16_t)(who >> WHO_GROUP_SET))
			return false;
	}
	touch_policy_flow(work, flow, found, begun != direction);
	if (*ended)
		work->rule = flow->rule;
	return true;
}

static __always_inline bool selects(const struct endpoint_policy *policy, uint64_t who)
{
	return (who >> WHO_DIRECTION & POLICY_FLOW_DIRECTION) == POLICY_INGRESS ? policy->ingress : policy->egress;
}

enum policed_verdict {
	POLICED_ASK = -1,	/* the rules have to say */
	POLICED_ADMIT = -2,	/* it may pass, and so may the fragments that follow */
};

/* The second step, what can be said without rules: NONE, a reason, ASK or ADMIT. work->found: what the first returned. */
static __always_inline int judge_known(const struct packet *packet, uint64_t who, struct policy_work *work)
{
	const uint32_t slot = who, found = work->found;
	struct endpoint_policy *policy = bpf_map_lookup_elem(&endpoint_policies, &slot);
	bool ended = false;

	if (!policy || !(policy->ingress | policy->egress))
		return REASON_NONE;
	if (packet->own_port_be)
		work->key.own_port_be = packet->own_port_be;
	if ((found & POLICED_KIND) == POLICED_UNREADABLE) {
		work->rule = 0;
		work->policed_slot = slot;
		return selects(policy, who) ? REASON_POLICY_UNREADABLE : REASON_NONE;
	}
	if ((found & POLICED_KIND) == POLICED_ALONE || !is_known(work, policy, who, found, &ended))
		return POLICED_ASK;
	if (ended) {
		work->policed_slot = slot;
		return REASON_POLICY_FLOW_ENDED;
	}
	return found & POLICED_FIRST && (found & POLICED_KIND) == POLICED_FLOW ? POLICED_ADMIT : REASON_NONE;
}

/* The first two steps in one: each call costs more than what it does. What is found meets in memory, and is judged once. The third is
 * called behind it: within it, the stacks of both would be too much for one. */
static __always_inline int judge_headers(void *frame, void *end, const struct packet *packet, uint64_t who)
{
	struct policy_work *work = policy_work();

	if (!packet || !work)
		return REASON_POLICY_UNREADABLE;
	work->found = read_packet(frame, end, packet, who);
	meet();
	return judge_known(packet, who, work);
}

__noinline int judge_skb(struct __sk_buff *skb, const struct packet *packet, uint64_t who)
{
	return judge_headers((void *)(long)skb->data, (void *)(long)skb->data_end, packet, who);
}

__noinline int judge_frame(struct xdp_md *ctx, const struct packet *packet, uint64_t who)
{
	return judge_headers((void *)(long)ctx->data, (void *)(long)ctx->data_end, packet, who);
}

/* By the rules, where no flow says more. */
static __always_inline int ask(struct policy_work *work, const struct packet *packet, uint64_t who)
{
	int reason;

	work->direction = who >> WHO_DIRECTION & POLICY_FLOW_DIRECTION;
	work->group_set = who >> WHO_GROUP_SET;
	work->policed_slot = who;
	work->told = work->audited = 0;
	if ((work->found & POLICED_KIND) == POLICED_ERROR) {	/* the key is of what it is about */
		write_protocol(&work->key, is_mapped(packet->src) ? IPPROTO_ICMP : IPPROTO_ICMPV6, false);
		work->found = (work->found & ~POLICED_KIND) | POLICED_ALONE;
	}
	reason = judge_packet(packet, who, work);
	if (is_refused_by_rules(reason) && (work->found & (POLICED_KIND | POLICED_BEGINS)) == POLICED_FLOW)
		reason = judge_as_answer(packet, who, work, reason);
	if (!reason && work->found & POLICED_FIRST && (work->found & POLICED_KIND) == POLICED_FLOW)
		admit_fragments(packet, who, who >> WHO_DIRECTION, work);
	return reason;
}

/* Audit mode let it pass: counted. True: somebody is to be told. */
static __always_inline bool is_told_of(const struct policy_work *work, const struct packet *packet)
{
	struct vpc_counters *vpc = work->told == EVENT_AUDITED ? vpc_counters_of(packet->vpc_slot) : NULL;

	if (vpc)
		vpc->audited_packets += packet->packets;
	return work->told && somebody_watches();
}

/* The third step, where the second says so. */
__noinline int ask_for_skb(struct __sk_buff *skb, const struct packet *packet, uint64_t who)
{
	struct policy_work *work = policy_work();
	int reason;

	if (!packet || !work)
		return REASON_POLICY_UNREADABLE;
	reason = ask(work, packet, who);
	if (is_told_of(work, packet))
		tell_of_skb(skb, packet, who >> WHO_HOOK | work->told << EVENT_OUTCOME_SHIFT, work->audited, 0);
	return reason;
}

__noinline int ask_for_frame(struct xdp_md *ctx, const struct packet *packet, uint64_t who)
{
	struct policy_work *work = policy_work();
	int reason;

	if (!packet || !work)
		return REASON_POLICY_UNREADABLE;
	reason = ask(work, packet, who);
	if (is_told_of(work, packet))
		tell_of_frame(ctx, packet, who >> WHO_HOOK | work->told << EVENT_OUTCOME_SHIFT, work->audited);
	return reason;
}

/* Behind a verdict of ADMIT, for the stack's sake. */
static __always_inline int admit(const struct packet *packet, uint64_t who)
{
	struct policy_work *work = policy_work();

	if (work)
		admit_fragments(packet, who, who >> WHO_DIRECTION, work);
	return REASON_NONE;
}

/* Whether the packet may leave its endpoint, or come to it: NONE, or why not. */
__noinline int police_skb(struct __sk_buff *skb, const struct packet *packet, uint64_t who)
{
	int reason = judge_skb(skb, packet, who);

	if (reason == POLICED_ADMIT)
		return admit(packet, who);
	return reason == POLICED_ASK ? ask_for_skb(skb, packet, who) : reason;
}

/* The same in XDP, where the stack has no room for one function more. */
static __always_inline __must_check enum drop_reason police_frame(struct xdp_md *ctx, const struct packet *packet,
								  uint64_t who)
{
	int reason = judge_frame(ctx, packet, who);

	if (reason == POLICED_ADMIT)
		reason = admit(packet, who);
	return (enum drop_reason)(reason == POLICED_ASK ? ask_for_frame(ctx, packet, who) : reason);
}
#endif
