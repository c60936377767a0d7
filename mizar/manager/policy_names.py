# SPDX-License-Identifier: Apache-2.0
"""What policies are called, and which rule would have said what: for who explains a verdict.

Called by monitor and tracing. It only reads, and tells everything: what a caller may hear is decided there. A policy
is of the tenant whose VPC its endpoints are in, so who sees the one sees the other.
"""

from __future__ import annotations

from ipaddress import ip_address

from mizar.manager.network_acls import acl_view
from mizar.manager.policies import Policies, policy_view
from mizar.manager.registry import Item, Registry
from mizar.model.network_acl import NetworkAcl
from mizar.model.policy import Policy
from mizar.planner.policy import ALLOW, rule_of
from mizar.planner.policy_peers import EVERYWHERE, Area, holds, place_of
from mizar.planner.policy_world import PolicyView, World, host_of


class PolicyNames:
    """Of all policies. `policies`: what is known of whom they select."""

    def __init__(self, registry: Registry, policies: Policies) -> None:
        self._registry = registry
        self._policies = policies

    def policy(self, vpc: Item | None, rule: int) -> Item | None:
        """The policy of a VPC that a rule is of, by the rule's number on droplets."""
        number, _, _ = rule_of(rule)
        found = self._registry.holder(f"policy/{vpc.uid}", str(number)) if vpc is not None and rule else None
        return found if found is not None and isinstance(found.resource, Policy) else None

    def acl(self, vpc: Item | None, rule: int) -> Item | None:
        """The network ACL of a VPC that a rule is of, likewise."""
        number, _, _ = rule_of(rule)
        found = self._registry.holder(f"policy/{vpc.uid}", str(number)) if vpc is not None and rule else None
        return found if found is not None and isinstance(found.resource, NetworkAcl) else None

    def rule(self, vpc: Item | None, rule: int) -> str:
        """A rule's name; empty where there is none such."""
        acl = self.acl(vpc, rule)
        if acl is not None and isinstance(acl.resource, NetworkAcl):
            _, egress, place = rule_of(rule)
            return acl_view(acl.resource).rule_text(egress, place)
        item = self.policy(vpc, rule)
        if item is None or not isinstance(item.resource, Policy):
            return ""
        _, egress, place = rule_of(rule)
        return policy_view(item.resource).rule_text(egress, place)

    def selecting(self, vpc: Item | None, uid: str, *, egress: bool) -> tuple[str, ...]:
        """Names of the policies that judge an endpoint in a direction."""
        return tuple(policy.name for policy in self._judging(vpc, uid, egress=egress)[1])

    def behind(self, vpc: Item | None, uid: str, rule: int, peer: bytes, protocol: int, port: int) -> str:
        """The rule that would have allowed what a rule denies, if it stood first; empty where none would.

        `port`: of the end that is begun towards; of ICMP, type times 256 plus code.
        """
        _, egress, _ = rule_of(rule)
        world, policies = self._judging(vpc, uid, egress=egress)
        met = False
        for policy, place, matcher in world.matchers(policies, egress, by_address=True) if world else ():
            if matcher.number == rule:
                met = True
                continue
            areas = (Area(EVERYWHERE),) if matcher.anybody else matcher.areas
            at = place_of(host_of(peer))
            who = any(holds(a.place, at) and not any(holds(hole, at) for hole in a.holes) for a in areas)
            what = not matcher.spans or any(
                span.protocol in (None, protocol) and span.first <= port <= span.last for span in matcher.spans
            )
            if met and who and what and matcher.action & ALLOW:
                return policy.rule_text(egress, place)
        return ""

    def uid_of(self, vpc: Item | None, address: bytes) -> str:
        """The endpoint that has an address in a VPC."""
        if vpc is None or len(address) not in (4, 16):
            return ""
        item = self._registry.holder(f"address/{vpc.uid}", str(ip_address(address)))
        return item.uid if item is not None else ""

    def _judging(self, vpc: Item | None, uid: str, *, egress: bool) -> tuple[World, tuple[PolicyView, ...]]:
        sets = self._policies.sets(vpc.ref) if vpc is not None else None
        endpoint = sets.world.endpoints.get(uid) if sets else None
        if sets is None or endpoint is None:
            return World(), ()
        world = sets.world
        return world, world.judging((p for p in world.policies.values() if world.means(p, endpoint)), egress)


def sentence(names: PolicyNames, vpc: Item | None, uid: str, rule: int, *, egress: bool) -> str:
    """Who decided, in a few words: a rule, or that none of these policies' does."""
    if rule:
        return names.rule(vpc, rule) or f"rule {rule}, of a policy that is gone"
    which = names.selecting(vpc, uid, egress=egress)
    if not which:
        return "no rule of a policy"
    listed = ", ".join(which[:3]) + (f" and {len(which) - 3} more" if len(which) > 3 else "")
    return f"no rule of {'policy' if len(which) == 1 else 'policies'} {listed}"
