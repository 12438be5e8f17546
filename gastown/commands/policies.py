"""The numbers of a town or a rig, changed by a person: refused as a whole when they make no sense anywhere."""

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.errors import UsageError
from gastown.models import Rig, Town
from gastown.reconcile.policy import Policy
from gastown.store.moves import record
from gastown.store.policies import OF_SETTINGS, OF_TOWN, load_policies

KNOWN = tuple(each.name for each in fields(Policy))


def read_assignments(given: Collection[str]) -> dict[str, Any]:
    """`KEY=VALUE` with a number, or several after commas. Raises UsageError for what has no such form."""
    found: dict[str, Any] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not (equals and key.strip() and value.strip()):
            raise UsageError(f"{each!r} is not KEY=VALUE", hint="such as --policy max_running=6")
        found[key.strip()] = _number(key.strip(), value.strip())
    return found


def _number(key: str, value: str) -> Any:
    several = isinstance(getattr(Policy, key, None), tuple)
    try:
        return json.loads(f"[{value}]" if several and not value.startswith("[") else value)
    except ValueError as error:
        what = "numbers with commas between them" if several else "a number"
        raise UsageError(f"{key} = {value!r} is not {what}", hint="gastown config show lists them all") from error


def change_town_policy(
    session: Session, town_id: int, changes: Mapping[str, Any], unset: Collection[str] = (), *, actor: str = "user"
) -> list[str]:
    """What changed, in words. In force at the next tick. Raises UsageError when it makes no sense for town or rig."""
    town = _lock_town(session, town_id)
    _check_keys(changes, unset, town.policy, OF_SETTINGS, "put it into gastown.toml: a worker reads it when it starts")
    before = load_policies(session, town_id).wrong_numbers
    changed, town.policy = _changed(town.policy, changes, unset)
    session.flush()
    for rig_id, fault in load_policies(session, town_id).wrong_numbers.items():
        if rig_id is None or not before.keys() & {None, rig_id}:  # of a wrong town no rig was known to be right
            raise UsageError(fault, hint="change what contradicts it in the same command; nothing was changed")
    if changed:
        record(session, town_id, "policy_changed", f"town {town.name}: {', '.join(changed)}", actor=actor)
    return changed


def change_rig_policy(
    session: Session, rig: Rig, changes: Mapping[str, Any], unset: Collection[str] = (), *, actor: str = "user"
) -> list[str]:
    """The same for a rig, whose numbers rank above the town's."""
    _lock_town(session, rig.town_id)
    session.refresh(rig, with_for_update=True)
    _check_keys(changes, unset, rig.policy, OF_TOWN | OF_SETTINGS, "it is of the town: gastown town set --policy ...")
    changed, rig.policy = _changed(rig.policy, changes, unset)
    session.flush()
    fault = load_policies(session, rig.town_id).wrong_numbers.get(rig.id)
    if fault is not None:
        raise UsageError(fault, hint="change what contradicts it in the same command; nothing was changed")
    if changed:
        record(session, rig.town_id, "policy_changed", f"rig {rig.name}: {', '.join(changed)}", actor=actor)
    return changed


def _lock_town(session: Session, town_id: int) -> Town:
    """Two changes that make sense each may make none together, so they go one after the other."""
    locked = select(Town).where(Town.id == town_id).with_for_update(key_share=True)
    return session.scalars(locked.execution_options(populate_existing=True)).one()


def _check_keys(
    changes: Mapping[str, Any], unset: Collection[str], stored: Any, elsewhere: frozenset[str], where: str
) -> None:
    for key in changes:
        if key not in KNOWN:
            near = difflib.get_close_matches(key, KNOWN, n=1)
            hint = f"did you mean {near[0]}?" if near else "gastown config show lists them all"
            raise UsageError(f"there is no policy {key}", hint=hint)
        if key in elsewhere:
            raise UsageError(f"{key} cannot be set here", hint=where)
        if key in unset:
            raise UsageError(f"{key} is both set and unset", hint="give one of them")
    for key in unset:
        if key not in (stored if isinstance(stored, dict) else {}):
            raise UsageError(f"{key} is not set here", hint="gastown config show says where each number comes from")


def _changed(stored: Any, changes: Mapping[str, Any], unset: Collection[str]) -> tuple[list[str], dict[str, Any]]:
    """In words, and the new overrides. What is no object at all is replaced."""
    before = stored if isinstance(stored, dict) else {}
    after = {key: value for key, value in before.items() if key not in unset} | dict(changes)
    keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    words = [f"{key} {_shown(before, key)} -> {_shown(after, key)}" for key in keys]
    return words + ([] if isinstance(stored, dict) else ["all that was stored"]), after


def _shown(overrides: Mapping[str, Any], key: str) -> str:
    return json.dumps(overrides[key]) if key in overrides else "unset"
