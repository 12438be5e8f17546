"""What must never be true cannot be stored. Each constraint, and a write that tries; the racing ones from two sides."""

import contextlib
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from gastown.db import gastown_now, transaction
from gastown.models import Agent, Base, Bead, BeadDependency, Dispatch, Escalation, MergeRequest
from gastown.states import AgentStatus, BeadStatus, DispatchStatus, MergeStatus
from tests.builders import HEAD, a_bead, a_merge, a_node, a_rig, a_town, an_agent, an_attempt
from tests.races import race

# one statement against a town with a working attempt ('live'), a finished one in review ('done'), and an idle agent
REFUSED = [
    ("UPDATE agents SET bead_id = NULL WHERE status = 'working'", "agents_working_has_hook_check"),
    ("UPDATE agents SET status = 'retired' WHERE status = 'working'", "agents_retired_has_no_hook_check"),
    ("UPDATE agents SET status = 'stalled'", "agents_status_check"),
    ("UPDATE beads SET status = 'closed', closed_at = now()", "beads_closed_has_resolution_check"),
    ("UPDATE beads SET resolution = 'merged'", "beads_closed_has_resolution_check"),
    ("UPDATE beads SET resolution = 'dropped', status = 'closed', closed_at = now()", "beads_resolution_check"),
    ("UPDATE beads SET status = 'failed', closed_at = now()", "beads_failed_has_reason_check"),
    ("UPDATE beads SET status = 'failed', failure_code = 'oom'", "beads_terminal_has_end_check"),
    ("UPDATE beads SET closed_at = now()", "beads_terminal_has_end_check"),
    (
        "UPDATE beads SET status = 'closed', resolution = 'done', closed_at = now(), ready_at = now()",
        "beads_terminal_is_never_ready_check",
    ),
    ("UPDATE beads SET status = 'ready'", "beads_status_check"),
    ("UPDATE beads SET priority = 4", "beads_priority_check"),
    ("UPDATE beads SET priority = -1", "beads_priority_check"),
    ("UPDATE beads SET title = ''", "beads_title_check"),
    ("UPDATE beads SET title = repeat('x', 10001)", "beads_title_check"),
    ("UPDATE beads SET held_at = now()", "beads_held_has_reason_check"),
    ("UPDATE beads SET held_reason = 'why'", "beads_held_has_reason_check"),
    ("UPDATE dispatches SET status = 'paused', ended_at = now()", "dispatches_status_check"),
    ("UPDATE dispatches SET epoch = 0", "dispatches_epoch_check"),
    ("UPDATE dispatches SET ended_at = now() WHERE status = 'running'", "dispatches_ended_is_not_live_check"),
    ("UPDATE dispatches SET ended_at = NULL WHERE status = 'succeeded'", "dispatches_ended_is_not_live_check"),
    ("UPDATE dispatches SET status = 'lost', ended_at = now()", "dispatches_has_code_check"),
    ("UPDATE dispatches SET failure_class = 'unlucky'", "dispatches_failure_class_check"),
    ("UPDATE dispatches SET started_at = NULL WHERE status = 'running'", "dispatches_running_has_started_check"),
    ("UPDATE dispatches SET stop_code = 'stalled'", "dispatches_asked_stop_has_code_check"),
    ("UPDATE dispatches SET stop_asked_at = now()", "dispatches_asked_stop_has_code_check"),
    ("UPDATE dispatches SET cost_usd = -0.01", "dispatches_cost_check"),
    ("UPDATE merge_requests SET status = 'merged'", "merge_requests_status_check"),
    ("UPDATE merge_requests SET status = 'in_progress'", "merge_requests_merging_has_lease_check"),
    ("UPDATE merge_requests SET status = 'pushing', lease_expires_at = now()", "merge_requests_pushing_check"),
    ("UPDATE merge_requests SET held_code = 'conflict'", "merge_requests_held_has_reason_check"),
    ("UPDATE merge_requests SET merged_sha = 'abc'", "merge_requests_merged_is_dated_check"),
    ("UPDATE merge_requests SET batch_of = id", "merge_requests_batch_is_open_check"),
    ("UPDATE merge_requests SET published_sha = 'abc'", "merge_requests_published_has_ref_check"),
    ("UPDATE nodes SET capacity = 0", "nodes_capacity_check"),
    ("UPDATE rigs SET repository = ''", "rigs_named_check"),
    ("UPDATE rigs SET gates = '{}'", "rigs_gates_check"),
    ("UPDATE rigs SET merge_method = 'octopus'", "rigs_merge_method_check"),
    (
        "INSERT INTO rigs (town_id, name, repository, branch) SELECT town_id, name, 'r', 'b' FROM rigs",
        "rigs_town_id_name_key",
    ),
    ("INSERT INTO api_tokens (town_id, name, token_hash) SELECT id, 'x', 'short' FROM towns", "api_tokens_hash_check"),
    (
        "INSERT INTO bead_dependencies (bead_id, blocker_id, kind) SELECT id, id, 'tracks' FROM beads",
        "bead_dependencies_no_self_edge_check",
    ),
    (
        "INSERT INTO bead_dependencies (bead_id, blocker_id, kind) SELECT min(id), max(id), 'likes' FROM beads",
        "bead_dependencies_kind_check",
    ),
    (
        "UPDATE rigs SET strategy = 'prayer'",
        "rigs_strategy_check",
    ),
    (
        "UPDATE beads SET purpose = 'fun'",
        "beads_purpose_check",
    ),
    (
        "UPDATE beads SET purpose = 'rework'",
        "beads_purpose_has_merge_check",
    ),
    (
        "UPDATE beads SET purpose = 'landing'",
        "beads_landing_has_convoy_check",
    ),
    (
        "UPDATE beads SET base_ref = 'refs/heads/x'",
        "beads_base_ref_has_base_check",
    ),
    (
        "INSERT INTO convoys (id, town_id, name) SELECT 'cv-1', id, '' FROM towns",
        "convoys_named_check",
    ),
    (
        "INSERT INTO convoys (id, town_id, name, status) SELECT 'cv-1', id, 'n', 'lost' FROM towns",
        "convoys_status_check",
    ),
    (
        "INSERT INTO convoys (id, town_id, name, status) SELECT 'cv-1', id, 'n', 'closed' FROM towns",
        "convoys_terminal_has_end_check",
    ),
    (
        "INSERT INTO convoys (id, town_id, name, mode) SELECT 'cv-1', id, 'n', 'yolo' FROM towns",
        "convoys_mode_check",
    ),
    (
        "INSERT INTO convoy_branches (convoy_id, rig_id, branch, target) SELECT 'cv-1', id, 'b', 'b' FROM rigs",
        "convoy_branches_own_check",
    ),
    ("DELETE FROM beads WHERE status = 'in_progress'", "agents_bead_id_fkey"),
]


def test_refused(database: str) -> None:
    with transaction() as session:
        an_attempt(session)
        an_agent(session, a_rig(session))
        an_attempt(session, DispatchStatus.SUCCEEDED)
    answers = {}
    for statement, _constraint in REFUSED:
        answers[statement] = "taken"
        with contextlib.suppress(IntegrityError), transaction() as session:
            try:
                session.execute(text(statement))
            except IntegrityError as error:
                answers[statement] = error.orig.diag.constraint_name  # type: ignore[union-attr]
                raise
            session.rollback()
    assert answers == dict(REFUSED)


def test_every_constraint_is_tried() -> None:
    """A new one wants a line above, or a race below."""
    tried = {constraint for _statement, constraint in REFUSED} | set(RACES) | {"bead_dependencies_no_self_edge_check"}
    ours = {
        str(each.name)
        for table in Base.metadata.tables.values()
        for each in table.constraints
        if re.search("_check$", str(each.name))
    }
    unique = {str(index.name) for table in Base.metadata.tables.values() for index in table.indexes if index.unique}
    assert (ours | unique) - tried == set()


def a_second_live_dispatch_of_the_bead(session: Session) -> Callable[[Session], Any]:
    bead = a_bead(session)
    agents = [an_agent(session, a_rig(session)).id for _ in range(2)]
    node_id = a_node(session).id

    def insert(session: Session, agent_id: int, epoch: int) -> None:
        ids = {"town_id": bead.town_id, "rig_id": bead.rig_id, "bead_id": bead.id, "agent_id": agent_id}
        session.add(Dispatch(**ids, node_id=node_id, epoch=epoch, preset="shell"))

    return lambda session: insert(session, agents.pop(), len(agents) + 1)


def a_second_live_dispatch_of_the_agent(session: Session) -> Callable[[Session], Any]:
    agent = an_agent(session, a_rig(session))
    beads = [a_bead(session), a_bead(session)]
    node_id = a_node(session).id

    def insert(session: Session, bead: Bead) -> None:
        ids = {"town_id": bead.town_id, "rig_id": bead.rig_id, "bead_id": bead.id, "agent_id": agent.id}
        session.add(Dispatch(**ids, node_id=node_id, epoch=1, preset="shell"))

    return lambda session: insert(session, beads.pop())


def a_second_dispatch_of_the_epoch(session: Session) -> Callable[[Session], Any]:
    ended = an_attempt(session, DispatchStatus.LOST)
    columns = "town_id, rig_id, bead_id, agent_id, node_id, preset"
    again = f"INSERT INTO dispatches ({columns}, epoch) SELECT {columns}, 7 FROM dispatches WHERE id = :id"
    return lambda session: session.execute(text(again), {"id": ended.id})


def a_second_agent_on_the_bead(session: Session) -> Callable[[Session], Any]:
    bead, agents = a_bead(session), [an_agent(session, a_rig(session)).id for _ in range(2)]

    def hook(session: Session) -> None:
        session.get_one(Agent, agents.pop()).bead_id = bead.id

    return hook


def a_second_living_agent_of_the_name(session: Session) -> Callable[[Session], Any]:
    rig = a_rig(session)
    an_agent(session, rig, name="iris", status=AgentStatus.RETIRED)
    return lambda session: an_agent(session, rig, name="iris")


def a_second_merge_into_the_target(session: Session) -> Callable[[Session], Any]:
    requests = [a_merge(session).id, a_merge(session).id]

    def merge(session: Session) -> None:
        request = session.get_one(MergeRequest, requests.pop())
        request.status, request.lease_expires_at = MergeStatus.IN_PROGRESS, session.scalar(select(gastown_now()))

    return merge


def a_second_merge_request_of_the_bead(session: Session) -> Callable[[Session], Any]:
    bead = a_bead(session, status=BeadStatus.IN_REVIEW)
    ended = [an_attempt(session, DispatchStatus.LOST, bead=bead) for _ in range(2)]
    return lambda session: a_merge(session, ended.pop(), head_sha=HEAD)


def a_second_open_escalation_of_the_cause(session: Session) -> Callable[[Session], Any]:
    town = a_town(session)

    def raise_it(session: Session) -> None:
        session.add(Escalation(town_id=town.id, cause="breaker", message="nothing starts"))

    return raise_it


RACES = {
    "one_live_dispatch_per_bead": a_second_live_dispatch_of_the_bead,
    "one_live_dispatch_per_agent": a_second_live_dispatch_of_the_agent,
    "dispatches_bead_id_epoch_key": a_second_dispatch_of_the_epoch,
    "one_agent_per_bead": a_second_agent_on_the_bead,
    "one_living_agent_per_name": a_second_living_agent_of_the_name,
    "one_merge_per_target": a_second_merge_into_the_target,
    "one_merge_request_per_bead": a_second_merge_request_of_the_bead,
    "one_open_escalation_per_cause": a_second_open_escalation_of_the_cause,
}


@pytest.mark.parametrize("constraint", RACES)
def test_the_second_of_two_at_once_is_refused(database: str, constraint: str) -> None:
    """Model: unique_index."""
    with transaction() as session:
        write = RACES[constraint](session)
    with pytest.raises(IntegrityError, match=constraint):
        race(write, write)


def test_two_merges_into_two_targets(database: str) -> None:
    with transaction() as session:
        lease = session.scalar(select(gastown_now()))
        for target in ("main", "next"):
            a_merge(session, target=target, status=MergeStatus.IN_PROGRESS, lease_expires_at=lease)


def an_edge(bead: str, blocker: str) -> Callable[[Session], Any]:
    return lambda session: session.add(BeadDependency(bead_id=bead, blocker_id=blocker))


def edges(*pairs: str) -> Callable[[Session], Any]:
    return lambda session: [an_edge(f"gt-{pair[0]}", f"gt-{pair[1]}")(session) for pair in pairs]


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        (["ab"], ["ba"], "gt-b waits for gt-a waits for gt-b"),
        (["ab", "cd"], ["bc", "da"], "gt-d waits for gt-a waits for gt-b waits for gt-c waits for gt-d"),
        (["ab", "bc", "cd"], ["da"], "gt-d waits for gt-a waits for gt-b waits for gt-c waits for gt-d"),
    ],
)
def test_a_cycle_by_edges_written_at_once(database: str, first: list[str], second: list[str], path: str) -> None:
    with transaction() as session:
        for letter in "abcd":
            a_bead(session, id=f"gt-{letter}")
    with pytest.raises(IntegrityError, match=f"cycle: {path}"):
        race(edges(*first), edges(*second))
    with transaction() as session:
        assert len(session.scalars(select(BeadDependency)).all()) == len(first)


def test_a_cycle_in_one_statement_or_by_moving_an_edge(database: str) -> None:
    with transaction() as session:
        for letter in "abc":
            a_bead(session, id=f"gt-{letter}")
        edges("ab", "bc")(session)
    insert = "INSERT INTO bead_dependencies (bead_id, blocker_id) VALUES ('gt-c', 'gt-b'), ('gt-c', 'gt-a')"
    for statement in (insert, "UPDATE bead_dependencies SET blocker_id = 'gt-a' WHERE bead_id = 'gt-b'"):
        with pytest.raises(IntegrityError, match="cycle: "), transaction() as session:
            session.execute(text(statement))


def test_a_diamond_is_no_cycle(database: str) -> None:
    with transaction() as session:
        for letter in "abcd":
            a_bead(session, id=f"gt-{letter}")
        edges("ab", "ac", "bd", "cd", "ad")(session)


def test_a_lattice_with_sixty_million_paths(database: str) -> None:
    """Each edge is walked once, not each path: the statement has 5 s."""
    depth, width = 10, 6
    layers = [[f"gt-{layer}x{place}" for place in range(width)] for layer in range(depth)]
    with transaction() as session:
        for bead in ["gt-w", "gt-y", *itertools.chain(*layers)]:
            a_bead(session, id=bead)
        for below, above in itertools.pairwise(layers):
            for bead, blocker in itertools.product(below, above):
                an_edge(bead, blocker)(session)
        an_edge("gt-w", "gt-y")(session)
    with transaction() as session:
        an_edge("gt-y", "gt-0x0")(session)
    with pytest.raises(IntegrityError, match="cycle: gt-9x5 waits for gt-0x0 waits for"), transaction() as session:
        an_edge("gt-9x5", "gt-0x0")(session)


def test_the_clock_is_the_wall_clock_until_a_session_sets_it(database: str) -> None:
    with transaction() as session:
        drift = session.scalar(text("SELECT abs(extract(epoch FROM gastown_now() - clock_timestamp()))"))
        assert drift is not None
        assert drift < 1
        assert session.scalar(text("SELECT gastown_now() > now()"))  # it runs on within a transaction
        session.execute(text("SET LOCAL gastown.now = '2026-01-05T12:00:00Z'"))
        assert session.scalar(text("SELECT gastown_now() = '2026-01-05T12:00:00Z'::timestamptz"))
    with transaction() as session:
        assert session.scalar(text("SELECT gastown_now() > '2026-02-01'"))


def test_a_nonsense_time_is_refused(database: str) -> None:
    with transaction() as session:
        session.execute(text("SET LOCAL gastown.now = 'soon'"))
        with pytest.raises(DBAPIError, match="soon"):
            session.execute(text("SELECT gastown_now()"))
        session.rollback()
