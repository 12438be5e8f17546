"""The numbers in force: the settings', overridden by the town's, overridden by the rig's.

What is stored may come from an older or a newer version, or from a hand in the database. Overrides that make no sense
stop nothing but new attempts where they are stored; what runs goes on with the numbers one level up. So does an
environment of a rig that is none.
"""

import json
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gastown.errors import Refused
from gastown.models import Rig, Town
from gastown.reconcile.policy import Policy
from gastown.settings import get_settings

OF_SETTINGS = frozenset({"node_max_running"})  # a worker reads it when it starts: a node serves all towns
OF_TOWN = frozenset(
    {
        "max_running",
        "api_silence_s",
        "node_silence_s",
        "town_breaker_failures",
        "town_breaker_window_s",
        "town_breaker_probe_s",
        "node_breaker_failures",
        "node_breaker_s",
        "budget_usd_per_day",
        "rate_limit_backoff_s",
        "agent_idle_s",
    }
)
_KNOWN = frozenset(each.name for each in fields(Policy))


@dataclass(frozen=True, kw_only=True)
class Policies:
    """Of a town and each of its rigs. `wrong` says what is wrong with what is stored of the town (None) or of a rig."""

    town: Policy
    rigs: dict[int, Policy]
    wrong: dict[int | None, str] = field(default_factory=dict)
    environments: frozenset[int] = frozenset()  # rigs of which not the policy is wrong, but the environment

    @property
    def wrong_numbers(self) -> dict[int | None, str]:
        """What is wrong with overrides alone."""
        return {key: fault for key, fault in self.wrong.items() if key not in self.environments}

    def wrong_for(self, rig_id: int) -> str | None:
        """Why nothing is started on this rig; None: its numbers make sense."""
        return self.wrong.get(None) or self.wrong.get(rig_id)


def load_policies(session: Session, town_id: int) -> Policies:
    """One query, whatever the number of beads. Never raises for what is stored."""
    rows = session.execute(
        select(Town.name, Town.policy, Rig.id, Rig.name, Rig.policy, func.jsonb_typeof(Rig.environment))
        .outerjoin(Rig, Rig.town_id == Town.id)
        .where(Town.id == town_id)
        .order_by(Rig.id)
    ).all()
    town_name, overrides = rows[0][0], rows[0][1]
    town, fault = parse(overrides)
    wrong: dict[int | None, str] = {} if fault is None else {None: f"policy of town {town_name}: {fault}"}
    of_town = overrides if fault is None else {}
    rigs = {}
    environments = set()
    for _town, _overrides, rig_id, rig_name, own, environment in rows:
        if rig_id is None:
            continue
        numbers, fault = parse(of_town, own)
        rigs[rig_id] = numbers if fault is None else town
        if fault is not None and None not in wrong:  # with a wrong town, what a rig builds on is not known
            wrong[rig_id] = f"policy of rig {rig_name}: {fault}"
        elif environment != "object" and None not in wrong:
            wrong[rig_id] = f"environment of rig {rig_name}: {_no_environment(environment)}"
            environments.add(rig_id)
    return Policies(town=town, rigs=rigs, wrong=wrong, environments=frozenset(environments))


def environment_of(rig: Rig) -> dict[str, str]:
    """What its agents, set-up and gates get. Raises Refused for what is none, with which nothing is started."""
    stored: object = rig.environment
    if not isinstance(stored, dict):
        kind = next((name for name, known in _JSON.items() if isinstance(stored, known)), "null")
        what = f"environment of rig {rig.name}: {_no_environment(kind)}"
        raise Refused(what, hint=f"gastown rig set {rig.name} --environment")
    return {str(key): str(value) for key, value in stored.items()}


_JSON: dict[str, Any] = {"array": list, "string": str, "boolean": bool, "number": (int, float)}


def _no_environment(kind: str | None) -> str:
    return f"a JSON {kind or 'null'} is stored, and ought to be an object such as {{}}"


def policy_of(session: Session, rig_id: int) -> Policy:
    row = session.execute(
        select(Town.policy, Rig.policy).join(Rig, Rig.town_id == Town.id).where(Rig.id == rig_id)
    ).one()
    town, fault = parse(row[0])
    numbers, wrong = parse({} if fault else row[0], row[1])
    return town if wrong else numbers


def rig_policies(session: Session, town_id: int) -> dict[int, Policy]:
    """Of every rig of the town, for a batch of beads."""
    return load_policies(session, town_id).rigs


def town_policy(session: Session, town_id: int) -> Policy:
    return parse(session.scalars(select(Town.policy).where(Town.id == town_id)).one())[0]


def parse(*overrides: Any) -> tuple[Policy, str | None]:
    """The settings' numbers with these overrides, or without any of them and why they make no sense."""
    given = json.dumps([get_settings().policy, *overrides], sort_keys=True)
    return _parse(given)


@lru_cache(maxsize=4096)
def _parse(given: str) -> tuple[Policy, str | None]:
    settings, *overrides = json.loads(given)
    fault = next((found for each in overrides if (found := _misfit(each)) is not None), None)
    if fault is None:
        try:
            return Policy.of(settings, *overrides), None
        except (ValueError, TypeError, OverflowError) as error:
            fault = str(error)
    return Policy.of(settings), fault


def _misfit(overrides: Any) -> str | None:
    """What can be said before the numbers are looked at, with the value, so that a person finds it."""
    if not isinstance(overrides, dict):
        return f"{json.dumps(overrides)[:100]} is stored, and ought to be an object such as {{}}"
    unknown = sorted(overrides.keys() - _KNOWN)
    shown = ", ".join(f"{key} = {json.dumps(overrides[key])[:100]}" for key in unknown)
    return f"there is no number of this name: {shown}" if unknown else None
