"""The workers of a node, as its row has them: `{"worker@host": {"at": ..., "version": ..., "starts": true}}`.

A worker that is not let in is there as well, with `refused`: why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

KEPT = timedelta(minutes=10)  # who has been silent for longer is forgotten


@dataclass(frozen=True, kw_only=True)
class Member:
    name: str
    at: datetime  # its last beat
    version: str | None = None
    starts: bool = False  # it takes starts, so the node lives while it beats
    refused: str | None = None


def read(stored: Any) -> list[Member]:
    """By name. What a newer version or a hand wrote, and this one cannot read, is left out."""
    found = []
    for name, facts in sorted(stored.items()) if isinstance(stored, dict) else ():
        try:
            at = datetime.fromisoformat(facts["at"])
            if at.tzinfo is None:
                continue
            found.append(
                Member(
                    name=name,
                    at=at,
                    version=facts.get("version"),
                    starts=facts.get("starts") is True,
                    refused=facts.get("refused"),
                )
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return found


def noted(stored: Any, now: datetime, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What to store after this worker beat at that time. Others stay for a while after their last beat."""
    kept = {each.name for each in read(stored) if each.at > now - KEPT}
    others = {key: value for key, value in stored.items() if key in kept} if kept else {}
    return others | {name: {"at": now.isoformat()} | {key: value for key, value in facts.items() if value is not None}}


def others_that_start(stored: Any, silent_from: datetime, name: str) -> list[str]:
    """Who else keeps the node alive."""
    return [
        each.name
        for each in read(stored)
        if each.starts and not each.refused and each.at >= silent_from and each.name != name
    ]


def refusals(stored: Any, silent_from: datetime) -> list[str]:
    """Each worker that is refused at present, and why."""
    return [f"{each.name}: {each.refused}" for each in read(stored) if each.refused and each.at >= silent_from]


def may_be(identity: str | None, asked: str | None) -> bool:
    """Whether who asks may be the node of this identity: nobody can tell, or it is."""
    return identity is None or asked is None or identity == asked


def words(stored: Any) -> tuple[str, ...]:
    """Labels, or the presets of images. What a hand wrote, and makes no sense, is none: it must not cost all others."""
    return tuple(map(str, stored)) if isinstance(stored, (list, dict)) else ()
