# SPDX-License-Identifier: Apache-2.0
"""Which functions a droplet takes: what the verifier refuses is said in words, and maps are shared and kept."""

from __future__ import annotations

import pytest

from mizar.kernel.function_tables import U64
from mizar.kernel.layout import U32
from mizar.kernel.maps import Table
from mizar.model.errors import ExhaustedError, InvalidError, MizarError

from .chained import CONTINUE, Chained, from_text, member, saying
from .test_functions import bounced
from .testbed import Testbed

LOOK = "uint32_t key = 0; uint64_t *v = bpf_map_lookup_elem(&mine, &key);"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("for (volatile int i = 0; i >= 0; i = 1) ;\nreturn 0;", "never end|too complex"),
        ("uint8_t *p = mizar_data(call); p[40] = 1; return 0;", "reads or writes the frame where nobody has checked"),
        (f"{LOOK} return v[0] + 1;", "NULL"),
        (
            f"{LOOK} if (v) v[3] = 1; return 0;",
            "behind the end",
        ),
    ],
)
def test_what_the_verifier_refuses_is_explained_and_disturbs_nothing(
    functions: Chained, droplet: Testbed, body: str, words: str
) -> None:
    functions.put({"ON_XDP_TX": [saying(CONTINUE, label=7)]})
    bad = from_text(body, "MIZAR_MAP(BPF_MAP_TYPE_HASH, mine, uint32_t, uint64_t, 1, 0);")
    with pytest.raises(InvalidError, match=f"function trial at ON_XDP_TX.*({words})"):
        functions.put({"ON_XDP_TX": [saying(CONTINUE, label=7), member(bad, 1)]})
    bounced(droplet)
    assert functions.trail("ON_XDP_TX") == 7


def test_what_is_too_complex_is_refused(functions: Chained) -> None:
    room = functions.chains.room
    functions.chains.room = type(room)(room.maps, room.several_buffers, 50)
    with pytest.raises(ExhaustedError, match=r"too complex: the verifier looked at .* and 50 are allowed"):
        functions.put({"ON_XDP_TX": [saying(CONTINUE)]})


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (
            "MIZAR_SHARED_MAP(BPF_MAP_TYPE_HASH, nowhere, uint32_t, uint32_t, 0);",
            "shares the map nowhere, which the data",
        ),
        (
            "MIZAR_SHARED_MAP(BPF_MAP_TYPE_HASH, vpcs, uint64_t, uint32_t, 0);",
            "vpcs in another shape: key_size 8, where",
        ),
    ],
)
def test_a_shared_map_must_be_there_and_be_the_same(functions: Chained, declared: str, words: str) -> None:
    with pytest.raises(MizarError, match=words):
        functions.put({"ON_XDP_TX": [member(from_text("return 0;", declared))]})


@pytest.mark.parametrize(
    ("which", "body"),
    [
        ("endpoint_counters", "uint32_t key = 0; struct endpoint_counters *v ="
         " bpf_map_lookup_elem(&endpoint_counters, &key); if (v) *(volatile uint8_t *)v = 1; return 0;"),
        ("agents", "uint32_t key = 1; bpf_map_delete_elem(&agents, &key); return 0;"),
        ("vpcs", "uint32_t key = 1; struct vpc v = {}; bpf_map_update_elem(&vpcs, &key, &v, BPF_ANY); return 0;"),
        ("endpoints", "struct endpoint_key key = {}; struct endpoint *v = bpf_map_lookup_elem(&endpoints, &key);"
         " if (v) mizar_read(call, 0, v, 6); return 0;"),
    ],
)  # fmt: skip
def test_a_shared_map_cannot_be_written(functions: Chained, which: str, body: str) -> None:
    """Not by a pointer, nor by either helper that changes maps, nor by one that fills memory."""
    with pytest.raises(InvalidError, match=r"writes where it may only read: a map of the data plane's.* function\.c:"):
        functions.put({"ON_XDP_TX": [member(from_text(body, f"MIZAR_SHARED({which});"))]})


def test_switches_of_functions_are_a_shared_map_like_others(functions: Chained) -> None:
    """Also of those that are about functions: a function can read who else is there, and change nothing."""
    declared = "MIZAR_SHARED_MAP(BPF_MAP_TYPE_ARRAY, function_switches, uint32_t, struct function_switches, 0);"
    look = "uint32_t key = 0; struct function_switches *v = bpf_map_lookup_elem(&function_switches, &key);"
    with pytest.raises(InvalidError, match="writes where it may only read"):
        functions.put({"ON_XDP_TX": [member(from_text(look + "if (v) v->droplet = 0; return 0;", declared))]})
    functions.put({"ON_XDP_TX": [member(from_text(look + "return v && v->droplet == 1 ? 1 : 0;", declared))]})


def test_a_functions_maps_outlive_its_replacement(functions: Chained, droplet: Testbed) -> None:
    """A version with another body goes on counting; one with another shape of the map is refused."""
    own = "MIZAR_MAP(BPF_MAP_TYPE_ARRAY, mine, uint32_t, uint64_t, {}, 0);"
    count = (
        "uint32_t key = 0; uint64_t *v = bpf_map_lookup_elem(&mine, &key); if (v) *v += {}; return FUNCTION_CONTINUE;"
    )

    for step in (1, 10):
        functions.put({"ON_XDP_TX": [member(from_text(count.format(step), own.format(1)))]})
        droplet.reset()
        bounced(droplet)
    assert Table("mine", functions.own["trial"]["mine"], U32, U64).get(0) == 11
    with pytest.raises(InvalidError, match="its map, of which the content is kept, mine in another shape"):
        functions.put({"ON_XDP_TX": [member(from_text(count.format(1), own.format(2)))]})
