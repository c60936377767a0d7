# SPDX-License-Identifier: Apache-2.0
"""What `mizar function new NAME` begins with: a source that does something, its test, a manifest. Text
alone."""

from __future__ import annotations

import re
from pathlib import Path

from mizar.model.errors import ConflictError, InvalidError, MizarError

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,33}[a-z0-9])?")

SOURCE = """\
/*
 * @NAME@: drops UDP datagrams to ports that its map lists, and counts them.
 *
 * `mizar function build` compiles it, `mizar function test` runs @NAME@.test.yaml; docs/function-tutorial.md explains.
 */
#include <linux/udp.h>
#include "mizar_function.h"

/* Its own memory: destination port -> packets that were refused. It outlives a replacement of the function. */
MIZAR_MAP(BPF_MAP_TYPE_HASH, ports, uint32_t, uint64_t, 1024, 0);

/* Why it drops: number, name in counters and events, sentence for people. */
MIZAR_REASONS({ 1, "PORT_CLOSED", "The destination port is closed by the operator." });

MIZAR_FUNCTION(@C_NAME@, MIZAR_STAGE(ENDPOINT_INGRESS_STAGE) | MIZAR_STAGE(ENDPOINT_EGRESS_STAGE))
{
	struct function_frame *frame = call->frame;
	struct udphdr *udp;
	uint64_t *refused;
	uint32_t port;

	/* What the data plane has parsed is in the frame's description: no function parses it again. */
	if (frame->protocol != 17 || !frame->transport_at)
		return FUNCTION_CONTINUE;
	udp = mizar_bytes(call, frame->transport_at, sizeof(*udp));
	if (!udp)
		return FUNCTION_CONTINUE;
	port = bpf_ntohs(udp->dest);
	refused = bpf_map_lookup_elem(&ports, &port);
	if (!refused)
		return FUNCTION_CONTINUE;
	__sync_fetch_and_add(refused, 1);
	return mizar_drop(call, 1);
}
"""

TEST = """\
# Frames in, frames out: `mizar function test` runs them in the kernel, without a droplet. docs/functions.md has all
# fields.
function: @NAME@
maps:
  ports: [{key: 5353, value: 0}]
cases:
  - name: a datagram to a closed port
    stage: [ENDPOINT_INGRESS, ENDPOINT_EGRESS]
    frame: {ipv4: {src: 10.0.1.2, dst: 10.0.1.3}, udp: {src: 40000, dst: 5353}, payload: hello}
    expect:
      verdict: drop
      reason: PORT_CLOSED
      maps: {ports: [{key: 5353, value: 1}]}
  - name: a datagram to another port
    stage: [ENDPOINT_INGRESS, ENDPOINT_EGRESS]
    frame: {ipv6: {src: "fd00::2", dst: "fd00::3"}, udp: {dst: 53}}
    expect: {verdict: continue, frame: same}
  - name: no datagram at all
    stage: ENDPOINT_INGRESS
    frame: {ipv4: {}, tcp: {dst: 5353, flags: syn}}
    expect: {verdict: continue, frame: same}
"""

MANIFEST = """\
# `mizar apply -f @NAME@.yaml` compiles the source, stores the object with the server, and loads it where its scopes
# have something. Only the operator may.
apiVersion: mizar/v1
kind: Function
metadata: {name: @NAME@}
spec:
  source: @NAME@.c
  order: 100
  attach: []            # nobody yet; for example: [{vpc: {tenant: blue, name: main}}]
  maps:
    ports: [{key: 5353, value: 0}]
"""


def new(name: str, folder: Path) -> list[Path]:
    """Makes the folder NAME in `folder`, with its three files; their paths. Raises ConflictError when it is there."""
    if not _NAME.fullmatch(name):
        raise InvalidError(
            f"a function's name is a DNS label of at most 35 characters that begins with a letter, found {name!r}"
        )
    target = folder / name
    texts = {f"{name}.c": SOURCE, f"{name}.test.yaml": TEST, f"{name}.yaml": MANIFEST}
    try:
        target.mkdir(parents=True)
    except FileExistsError as error:
        raise ConflictError(f"{target} is there already; nothing was changed") from error
    except OSError as error:
        raise MizarError(f"{target} cannot be made: {error.strerror or error}") from error
    made = []
    for file, text in texts.items():
        path = target / file
        path.write_text(text.replace("@NAME@", name).replace("@C_NAME@", name.replace("-", "_")), encoding="utf-8")
        made.append(path)
    return made
