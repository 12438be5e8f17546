"""Beads: made, ended, opened again."""

import json
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Select, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from gastown.db import gastown_now
from gastown.errors import NotFound, Refused
from gastown.models import Bead, BeadDependency, ConvoyBranch, Dispatch, MergeRequest
from gastown.states import RELEASING, TERMINAL, BeadStatus, Purpose, Resolution
from gastown.store import agents, draws, escalations
from gastown.store.moves import lock_bead, lock_beads, lock_with_dependants, move, record, set_bead, waiting_for, wake

ID_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # none that look alike
ID_LENGTH = 5  # 28 million; a taken id is drawn again


def get_bead(session: Session, bead_id: str, town_id: int) -> Bead:
    bead = session.get(Bead, bead_id)
    if bead is None or bead.town_id != town_id:
        raise NotFound("bead", bead_id, hint="gastown bead list")
    return bead


def lock_known_bead(session: Session, bead_id: str, town_id: int, *, dependants: bool = False) -> Bead:
    """`dependants`: with those that wait for it, and those made for its merges, for a change that wakes or ends them.

    Raises NotFound.
    """
    get_bead(session, bead_id, town_id)
    if dependants:
        return lock_with_dependants(session, bead_id, *made_for(session, bead_id))[bead_id]
    bead = lock_bead(session, bead_id)
    assert bead is not None
    return bead


def made_for(session: Session, bead_id: str) -> list[str]:
    """The beads that Gastown made for this one's merges, to mend or to review them, and that are unfinished or failed:
    they end with what they were made for. Ascending.
    """
    made = select(Bead.id).join(MergeRequest, MergeRequest.id == Bead.mr_id)
    unclosed = Bead.status != BeadStatus.CLOSED
    return list(session.scalars(made.where(MergeRequest.bead_id == bead_id, unclosed).order_by(Bead.id)))


_INSERT = text("""
    WITH wanted AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
            place bigint, id text, rig_id bigint, title text, body text, labels jsonb, agent text, priority smallint)
    ), made AS (
        INSERT INTO beads (id, town_id, rig_id, title, body, labels, agent, priority, wake_at)
        SELECT id, :town_id, rig_id, title, body, ARRAY(SELECT jsonb_array_elements_text(labels)), agent, priority,
               gastown_now()
        FROM wanted ORDER BY place
        ON CONFLICT (id) DO NOTHING RETURNING id, title
    )
    INSERT INTO events (town_id, bead_id, actor, kind, message)
    SELECT :town_id, id, :actor, 'created', title FROM made RETURNING bead_id
""")  # one statement for all: their text as one parameter, so that a thousand cost little more than one


def insert_beads(session: Session, town_id: int, rows: Sequence[Mapping[str, object]], actor: str) -> list[str]:
    """New beads, due at once, each with its line in the journal; their ids, short and human, in the same order.

    Of each row: rig_id, title, body, labels, agent, priority.
    """
    ids: list[str] = [""] * len(rows)
    missing = list(range(len(rows)))
    for _ in range(100):
        drawn = {"gt-" + draws.letters(ID_LETTERS, ID_LENGTH): place for place in missing}
        texts = json.dumps([{**rows[place], "place": place, "id": each} for each, place in drawn.items()])
        made = session.scalars(_INSERT, {"rows": texts, "town_id": town_id, "actor": actor})
        for each in made:
            ids[drawn[each]] = each
        missing = [place for place in missing if not ids[place]]
        if not missing:
            return ids
    raise Refused("no free bead id was found in 100 draws", hint="close and delete old beads")


def add_edges(session: Session, edges: Iterable[tuple[str, str]], *, kind: str = "blocks") -> None:
    """Each first one waits for the second. Raises Refused, naming the path, when that closes a cycle."""
    values = [{"bead_id": bead_id, "blocker_id": blocker_id, "kind": kind} for bead_id, blocker_id in edges]
    if not values:
        return
    try:
        with session.begin_nested():
            session.execute(insert(BeadDependency).on_conflict_do_nothing(), values)
    except IntegrityError as error:
        words = str(error.orig).splitlines()[0]
        raise Refused(f"this dependency closes a {words}", hint="leave one of these edges out") from error


def add_blockers(session: Session, bead_id: str, blocker_ids: Iterable[str], town_id: int) -> None:
    """`bead_id` waits for each of them. Raises Refused, naming the path, when that closes a cycle."""
    wanted = sorted(set(blocker_ids))
    if not wanted:
        return
    statement = select(Bead.id).where(Bead.id.in_(wanted), Bead.town_id == town_id).order_by(Bead.id)
    found = set(session.scalars(statement.with_for_update(read=True)))
    for missing in [each for each in wanted if each not in found]:
        raise NotFound("bead", missing, hint="gastown bead list")
    add_edges(session, [(bead_id, blocker) for blocker in wanted])
    wait_for_landings(session, bead_id, wanted)
    wake(session, bead_id)


def wait_for_landings(session: Session, bead_id: str, blocker_ids: Sequence[str] | Select[str]) -> None:
    """What members of a convoy made is in the target when it has landed: who is no member waits for that as well.

    Raises Refused, naming the path, when that closes a cycle.
    """
    member, landing = aliased(Bead), aliased(Bead)
    own = select(Bead.convoy_id).where(Bead.id == bead_id).scalar_subquery()
    there = select(MergeRequest.id).where(
        MergeRequest.bead_id == member.id,
        MergeRequest.target == ConvoyBranch.branch,
        MergeRequest.merged_sha.is_not(None),
    )
    unlanded = landing.resolution.is_(None) | landing.resolution.not_in(RELEASING)
    query = (
        select(landing.id)
        .distinct()
        .join(ConvoyBranch, (ConvoyBranch.convoy_id == landing.convoy_id) & (ConvoyBranch.rig_id == landing.rig_id))
        .join(member, (member.convoy_id == landing.convoy_id) & (member.rig_id == landing.rig_id))
        .where(landing.purpose == Purpose.LANDING, landing.id != bead_id)
        # one that ended otherwise holds back what is on its branch, and nothing that was made without it
        .where(landing.status.not_in(TERMINAL) | (unlanded & there.exists()))
        .where(member.id.in_(blocker_ids), member.purpose.is_(None), member.convoy_id.is_distinct_from(own))
    )
    add_edges(session, [(bead_id, each) for each in session.scalars(query)])


def have_others_wait(session: Session, convoy_id: str | None, member_ids: Sequence[str]) -> None:
    """Whoever waits for these members, and is none, waits for the landings of their convoy too.

    Raises Refused, naming the path, when that closes a cycle.
    """
    waiting = select(Bead.id).join(BeadDependency, BeadDependency.bead_id == Bead.id).distinct()
    waiting = waiting.where(BeadDependency.blocker_id.in_(member_ids), BeadDependency.kind == "blocks")
    waiting = waiting.where(Bead.convoy_id.is_distinct_from(convoy_id), Bead.status.not_in(TERMINAL))
    for waiting_id in session.scalars(waiting.order_by(Bead.id)).all():
        wait_for_landings(session, waiting_id, member_ids)


def wait_for_landings_no_more(session: Session, bead_id: str, blocker_id: str) -> list[str]:
    """Undo `wait_for_landings` for a blocker that is none any more, where no other one calls for it. Which landings."""
    statement = text("""
        DELETE FROM bead_dependencies e USING beads l, beads m
        WHERE e.bead_id = :bead_id AND e.kind = 'blocks' AND l.id = e.blocker_id AND l.purpose = :landing
          AND m.id = :blocker_id AND m.purpose IS NULL AND m.convoy_id = l.convoy_id AND m.rig_id = l.rig_id
          AND NOT EXISTS (
            SELECT 1 FROM bead_dependencies o JOIN beads b ON b.id = o.blocker_id
            WHERE o.bead_id = e.bead_id AND o.kind = 'blocks' AND b.purpose IS NULL
              AND b.convoy_id = l.convoy_id AND b.rig_id = l.rig_id)
        RETURNING e.blocker_id""")
    given = {"bead_id": bead_id, "blocker_id": blocker_id, "landing": Purpose.LANDING}
    return list(session.scalars(statement, given))


def fail_bead(session: Session, bead: Bead, code: str, message: str) -> bool:
    """open or in_progress -> failed; its agent is unhooked, who waits for it is woken, a human is told."""
    sources = (BeadStatus.OPEN, BeadStatus.IN_PROGRESS)
    values: dict[str, object] = {"closed_at": gastown_now(), "ready_at": None}
    values |= {"failure_code": code, "failure_message": message}
    if bead.purpose == Purpose.LANDING:
        values["wake_at"] = gastown_now()  # its convoy may end with it
    if not move(session, Bead, bead.id, sources, BeadStatus.FAILED, **values):
        return False
    agents.unhook(session, bead.id)
    wake_dependants(session, bead.id)
    record(session, bead.town_id, "failed", message, actor="reconciler", bead_id=bead.id, code=code)
    told = f"{bead.id} failed: {message}"
    escalations.raise_once(session, bead.town_id, escalations.FAILED + bead.id, told, bead_id=bead.id)
    return True


def hold_bead(session: Session, bead: Bead, reason: str, actor: str) -> None:
    """A locked bead gets no attempt until it is released. Its agent is let go, so that nothing can be adopted."""
    set_bead(session, bead.id, held_at=gastown_now(), held_reason=reason, wake_at=gastown_now(), ready_at=None)
    agents.unhook(session, bead.id)
    record(session, bead.town_id, "held", reason, actor=actor, bead_id=bead.id)


def close_bead(session: Session, bead: Bead, resolution: Resolution, actor: str, message: str) -> bool:
    """A locked bead -> closed. Its agent and its attempt are the caller's to release. False: it was closed before."""
    sources = (BeadStatus.OPEN, BeadStatus.IN_PROGRESS, BeadStatus.IN_REVIEW, BeadStatus.FAILED)
    values = {"resolution": resolution, "closed_at": gastown_now(), "ready_at": None, "wake_at": gastown_now()}
    if not move(session, Bead, bead.id, sources, BeadStatus.CLOSED, **values):
        return False
    wake_dependants(session, bead.id)
    escalations.settle_bead(session, bead)
    record(session, bead.town_id, str(resolution), message, actor=actor, bead_id=bead.id)
    return True


def reopen(
    session: Session, bead: Bead, actor: str, *, base_sha: str | None = None, base_ref: str | None = None
) -> bool:
    """A terminal or reviewed bead is worked on again: attempts count from here.

    `base_sha`: what it starts from; `base_ref`: where that is on the remote, None under the bead's own refs. Raises
    Refused when by now beads and landings would wait for each other in a circle.
    """
    sources = (BeadStatus.IN_REVIEW, BeadStatus.CLOSED, BeadStatus.FAILED)
    cleared: dict[str, object] = dict.fromkeys(
        ("resolution", "closed_at", "not_before", "failure_class", "failure_code", "failure_message")
    )
    values: dict[str, object] = {"wake_at": gastown_now(), "attempts_from": last_epoch(session, bead.id)}
    values |= {"base_sha": base_sha, "base_ref": base_ref}
    was_over = bead.status in TERMINAL
    if not move(session, Bead, bead.id, sources, BeadStatus.OPEN, **cleared, **values):
        return False
    if bead.purpose is None and was_over:  # a blocker may have become a member meanwhile
        blockers = select(BeadDependency.blocker_id).where(BeadDependency.bead_id == bead.id)
        wait_for_landings(session, bead.id, blockers.where(BeadDependency.kind == "blocks"))
    if bead.purpose == Purpose.LANDING:  # who began to wait for a member while it was over waits for it from now on
        members = select(Bead.id).where(Bead.convoy_id == bead.convoy_id, Bead.rig_id == bead.rig_id)
        have_others_wait(session, bead.convoy_id, session.scalars(members.where(Bead.purpose.is_(None))).all())
    wake_dependants(session, bead.id)
    escalations.settle_bead(session, bead)
    record(session, bead.town_id, "retried", "another attempt was asked for", actor=actor, bead_id=bead.id)
    return True


def last_epoch(session: Session, bead_id: str) -> int:
    return session.scalar(select(func.max(Dispatch.epoch)).where(Dispatch.bead_id == bead_id)) or 0


def wake_dependants(session: Session, bead_id: str) -> None:
    """The bead's state changed: whoever waits for it is looked at."""
    waiting = waiting_for(session, bead_id)
    lock_beads(session, set(waiting))
    wake(session, *waiting)
