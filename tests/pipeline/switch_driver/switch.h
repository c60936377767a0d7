/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An emulated embedded switch as a DPDK driver, for tests: `--vdev=net_switch0,frames=SOCKET --vdev=net_switch1`.
 *
 * All its ports share one switch. It takes rte_flow rules and meters as a NIC's driver does, refuses what it does not
 * understand, and does with each frame that comes over the socket what the rules say. It knows rte_flow as DPDK's guide
 * describes it, and nothing of Mizar. check.c judges rules, rules.c keeps them, match.c and act.c execute them.
 */
#ifndef MIZAR_SWITCH_H
#define MIZAR_SWITCH_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include <ethdev_driver.h>
#include <rte_flow_driver.h>
#include <rte_geneve.h>
#include <rte_mtr_driver.h>

#define REFUSE(error, kind, what, why) rte_flow_error_set(error, ENOTSUP, RTE_FLOW_ERROR_TYPE_##kind, what, why)

enum limits {
	PORTS = 8,
	QUEUES = 16,
	TAGS = 4,
	LAYERS = 16,
	COUNTS = 32,		/* counters that one frame can meet */
	JUMPS = 64,
	ROOM = 256,		/* for headers in front of a frame */
	FRAME = 65536,
	RAW = 512,
};

/* A header in a frame, by the item that matches it. */
struct layer {
	enum rte_flow_item_type type;
	uint32_t begin, end;
	uint32_t limit;		/* where the packet ends that it belongs to */
};

struct frame {
	uint8_t *bytes;		/* ROOM bytes in front of it are free */
	uint32_t length;
	struct layer layers[LAYERS];
	uint32_t layer_count;
	uint32_t meta;
	uint32_t tags[TAGS];
	uint32_t tracked;	/* what conntrack said, 0: not asked */
	uint64_t now_ns;
	uint32_t counted[COUNTS];
	uint32_t count_count;
};

enum ending { UNDECIDED, REPRESENTED_PORT, PORT_REPRESENTOR, DROPPED, QUEUED, DROPPED_BY_METER, BROKEN };

struct verdict {
	enum ending ending;
	uint32_t port, queue;
	const char *problem;	/* BROKEN: what the rules forgot */
};

struct meter_profile {
	LIST_ENTRY(meter_profile) next;
	uint32_t id, users;
	uint64_t rate, burst;	/* packets */
};

struct meter_policy {
	LIST_ENTRY(meter_policy) next;
	uint32_t id, users;
};

struct meter {
	LIST_ENTRY(meter) next;
	uint32_t id, users;
	bool shared, filled;
	struct meter_profile *profile;
	struct meter_policy *policy;
	uint64_t tokens;	/* of 10^-9 packets */
	uint64_t filled_ns, dropped_packets, dropped_bytes;
};

/* An indirect action: conntrack alone. */
struct rte_flow_action_handle {
	LIST_ENTRY(rte_flow_action_handle) next;
	uint32_t users;
	struct rte_flow_action_conntrack conntrack;
};

struct rte_flow {
	TAILQ_ENTRY(rte_flow) next;
	uint32_t number;	/* in the order of making */
	uint16_t port;
	bool original;		/* direction for its conntrack, as it was when the rule was made */
	struct rte_flow_conv_rule *rule;
	uint8_t *raw;		/* bytes of the rule's raw_encap and raw_decap */
	struct rte_flow_action_handle *handle;
	struct meter *meter;
	uint64_t hits, bytes, last_ns;
	bool told;		/* that it has aged */
};

struct eswitch {
	pthread_mutex_t lock;
	TAILQ_HEAD(, rte_flow) flows;
	LIST_HEAD(, meter_profile) profiles;
	LIST_HEAD(, meter_policy) policies;
	LIST_HEAD(, meter) meters;
	LIST_HEAD(, rte_flow_action_handle) handles;
	uint64_t now_ns;	/* of the last frame or tick */
	uint32_t made;
	char socket[108];
};

extern struct eswitch eswitch;
extern const struct rte_flow_ops switch_flow_ops;
extern const struct rte_mtr_ops switch_meter_ops;

/* check.c: 0, or a negative errno with `error` set */
int check_rule(const struct rte_flow_attr *attr, const struct rte_flow_item items[],
	       const struct rte_flow_action actions[], struct rte_flow_error *error);
int check_conntrack(const struct rte_flow_action_conntrack *conf, struct rte_flow_error *error);
uint32_t header_bytes(enum rte_flow_item_type type);

/* parse.c */
void parse(struct frame *frame);

/* match.c */
bool matches(const struct frame *frame, const struct rte_flow_item items[]);
struct verdict walk(struct frame *frame);

/* act.c: does all of a rule; `group` is where it jumps to, or -1 */
struct verdict act(struct frame *frame, struct rte_flow *flow, int64_t *group);

/* field.c */
bool modify_field(struct frame *frame, const struct rte_flow_action_modify_field *conf);
bool set_field(struct frame *frame, enum rte_flow_action_type type, const void *conf);
const struct layer *find_layer(const struct frame *frame, enum rte_flow_item_type type);

/* meter.c */
struct meter *find_meter(uint32_t id);
bool meter_passes(struct meter *meter, const struct frame *frame);

/* frames.c */
int serve_frames(const char *socket);

/* dump.c */
int switch_dump(struct rte_eth_dev *dev, struct rte_flow *flow, FILE *file, struct rte_flow_error *error);

static inline uint16_t be16(const uint8_t *at)
{
	return at[0] << 8 | at[1];
}

static inline void put16(uint8_t *at, uint16_t number)
{
	at[0] = number >> 8;
	at[1] = number;
}
#endif
