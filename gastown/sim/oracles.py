"""What must be true after each step, whatever happened: the guarantees, as checks on rows and on the outside.

A check compares what the database says now with what it said a step before; one query, all tables.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from gastown.sim import holding, landed, merged, reviewed
from gastown.sim.actors import Actor
from gastown.sim.broker import MANY
from gastown.states import ADOPTABLE, LIVE, MACHINES, RELEASING, TERMINAL
from gastown.store.resync import INVARIANTS, REASONS

if TYPE_CHECKING:
    from gastown.sim.agents import SimAgent
    from gastown.sim.world import World

Row = dict[str, Any]
TABLES = {
    "beads": "id, town_id, rig_id, status, resolution, held_at IS NOT NULL AS held, wake_at, not_before, attempts_from,"
    " failure_code, verdict, ready_at, purpose, mr_id, convoy_id",
    "dispatches": "id, town_id, rig_id, node_id, bead_id, agent_id, epoch, status, code, failure_class, head_sha,"
    " wip_sha, queued_at, ended_at, adopted_at, cost_usd, cap_usd",
    "agents": "id, bead_id, status",
    "merge_requests": "id, bead_id, dispatch_id, rig_id, status, head_sha, merge_sha, staged_sha, merged_sha,"
    " merge_epoch, lease_expires_at, rounds, batch_of, held_code, rework_id, target, reviewed_sha",
    "convoys": "id, town_id, name, status, partial_at AS partial",
    "bead_dependencies": "bead_id, blocker_id",
    "nodes": "id, name, capacity, coalesce(draining_at, closed_at) IS NOT NULL AS draining",
    "towns": "id, paused_at IS NOT NULL AS paused, policy, breaker_opened_at",
    "services": "name AS id, alive_at, back_at",
    "rigs": "id, town_id, paused_at IS NOT NULL AS paused, policy, review_agent IS NOT NULL AS reviews",
}
BROKEN = {
    **INVARIANTS,
    **{f"a wake-up was forgotten ({reason.replace('_', ' ')})": query for reason, query in REASONS.items()},
}


def _query() -> str:
    parts = [
        f"'{table}', (SELECT coalesce(json_agg(r), '[]') FROM (SELECT {columns} FROM {table} ORDER BY 1, 2) r)"
        for table, columns in TABLES.items()
    ]
    parts += [f"'! {name}', (SELECT coalesce(json_agg(v), '[]') FROM ({query}) v)" for name, query in BROKEN.items()]
    return f"SELECT json_build_object({', '.join(parts)})::text"


def _paths() -> set[tuple[str, str, str]]:
    """Every change of a status that one transaction may make: moves, and moves after moves."""
    found = {(machine, move.source, move.target) for machine, moves in MACHINES.items() for move in moves}
    for _ in range(2):
        found |= {(m, a, d) for m, a, b in found for n, c, d in found if m == n and b == c}
    return {(machine, str(source), str(target)) for machine, source, target in found}


BACKED_OFF = ("infra", "agent", "config")  # the others hold the bead, or let its preset rest
CHARGED = ("not_before", "failure_code")
LEGAL = _paths()
MACHINE_OF = {"beads": "bead", "agents": "agent", "dispatches": "dispatch", "merge_requests": "merge_request"}


def _seconds(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _key_of(table: str, row: Row) -> Any:
    return (row["bead_id"], row["blocker_id"]) if table == "bead_dependencies" else row["id"]


@dataclass
class Snapshot:
    """All rows that matter, by table and key."""

    tables: dict[str, dict[Any, Row]]
    broken: dict[str, list[Any]]
    hooked: set[tuple[int, str]] = field(default_factory=set)
    newest: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Snapshot":
        tables = {table: {_key_of(table, row): row for row in data[table]} for table in TABLES}
        made = cls(tables, {name[2:]: rows for name, rows in data.items() if name.startswith("! ") and rows})
        made.hooked = {(row["id"], row["bead_id"]) for row in data["agents"] if row["bead_id"] is not None}
        for row in data["dispatches"]:
            made.newest[row["bead_id"]] = max(row["epoch"], made.newest.get(row["bead_id"], 0))
        return made

    def is_fenced(self, dispatch: Row) -> bool:
        """DESIGN 5, in words of its own: neither live nor adoptable."""
        bead = self.tables["beads"][dispatch["bead_id"]]
        wanted = bead["status"] == "in_progress" and (dispatch["agent_id"], bead["id"]) in self.hooked
        if dispatch["status"] in LIVE:
            return not wanted
        return not (dispatch["status"] in ADOPTABLE and self.newest[bead["id"]] == dispatch["epoch"] and wanted)

    def blockers_hold(self, bead_id: str) -> list[str]:
        beads = self.tables["beads"]
        return [
            blocker
            for bead, blocker in self.tables["bead_dependencies"]
            if bead == bead_id and beads[blocker]["resolution"] not in RELEASING
        ]


EMPTY = Snapshot({table: {} for table in TABLES}, {})


class Oracles:
    """Looks after each step, and tells the world what is broken."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.before = self.now = EMPTY
        self.fenced: set[str] = set()
        self.served: dict[str, str] = {}  # attempt -> the head of its accepted done
        self.saved: dict[str, str] = {}  # attempt -> the last WIP that was accepted
        self.adopted: dict[str, int] = {}  # attempts -> the step in which they were, last
        self.forced: set[str] = set()
        self.begun: set[str] = set()  # attempts whose start was asked of a runtime
        self.at_merge: dict[int, Actor | None] = {}  # who claimed a merge last
        self.approved: set[tuple[int, str]] = set()  # merge requests, and their heads
        self.objected: set[tuple[int, str]] = set()
        self.claimed_at: dict[int, int] = {}  # of merges, in steps
        self.heads: dict[str, set[str]] = {}  # of the merge requests of each bead, also those that were mended
        self.limits: list[tuple[int, dict[str, Any]]] = []
        self._query = _query()
        self._connection: psycopg.Connection[Any] | None = None
        self._statements = -1
        self._told: datetime | None = None

    def connect(self) -> None:
        server = self.world.server
        self._connection = psycopg.connect(server.plain_url(server.database), autocommit=True, prepare_threshold=1)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @property
    def unfinished(self) -> int:
        return sum(row["status"] not in TERMINAL for row in self.now.tables["beads"].values())

    # ---- after each step -----------------------------------------------------------------------------

    def look(self, actor: Actor | None) -> None:
        """Everything, if anything can have changed."""
        if self.world.server.statements == self._statements and not self.world.targets.landings:
            return
        self._statements = self.world.server.statements
        assert self._connection is not None
        if self._told != self.world.now:
            self._told = self.world.now
            self._connection.execute("SELECT set_config('gastown.now', %s, false)", [self._told.isoformat()])
        [text] = self._connection.execute(self._query).fetchone() or ("{}",)
        self.before, self.now = self.now, Snapshot.of(json.loads(text))
        for name, rows in self.now.broken.items():
            self.fail(name, ", ".join(sorted({self.world.name_of(next(iter(row.values()))) for row in rows})))
        self._check_moves(actor)
        self._check_fences()
        self._check_outages()
        self._check_created(actor)
        holding.check(self, actor)
        self._check_terminal(actor)
        merged.check(self)
        landed.check(self)
        reviewed.check(self, actor)
        self._check_processes()
        self._check_work()

    def fail(self, invariant: str, detail: str) -> None:
        self.world.fail(invariant, detail)

    def _name(self, dispatch: Row) -> str:
        return self.world.name_of(dispatch["id"])

    def _check_moves(self, actor: Actor | None) -> None:
        for table, machine in MACHINE_OF.items():
            old = self.before.tables[table]
            for key, row in self.now.tables[table].items():
                was = old[key]["status"] if key in old else row["status"]
                if was in ADOPTABLE and row["status"] in LIVE:
                    self.adopted[key] = self.world.step
                if was != row["status"] and (machine, was, row["status"]) not in LEGAL:
                    self.fail("a move that is not drawn", f"{self.world.name_of(key)}: {was} -> {row['status']}")

    def _check_fences(self) -> None:
        """G2: once fenced, always fenced."""
        dispatches = self.now.tables["dispatches"]
        fenced = {key for key, row in dispatches.items() if self.now.is_fenced(row)}
        for key in self.fenced - fenced:
            self.fail("an attempt that was fenced is live or adoptable again", self.world.name_of(key))
        self.fenced = fenced

    def _check_outages(self) -> None:
        """Silence while the API was away says nothing about an attempt."""
        api, old = self.now.tables["services"]["api"], self.before.tables["dispatches"]
        for key, row in self.now.tables["dispatches"].items():
            if row["code"] != "heartbeat_lost" or key not in old or old[key]["status"] == row["status"]:
                continue
            silent_s = _seconds(row["ended_at"], api["alive_at"])
            if silent_s > 16 or 0 <= _seconds(row["ended_at"], api["back_at"]) < 44:
                self.fail("an attempt lost for being silent while the API was away", self.world.name_of(key))

    def _check_created(self, actor: Actor | None) -> None:
        """G6: what every new attempt needs is so in the transaction that creates it."""
        new = [row for key, row in self.now.tables["dispatches"].items() if key not in self.before.tables["dispatches"]]
        if not new:
            return
        since = 0 if actor is None else actor.began_at_step
        # an adoption may exceed what there is, so also one that came while these were being made
        adopted = {key for key, step in self.adopted.items() if step >= since}
        dispatches = self.now.tables["dispatches"]
        live = [row for key, row in dispatches.items() if row["status"] in LIVE and key not in adopted]
        for row in new:
            self._check_room(row, live, since)
            self._check_wanted(row)
            landed.check_start(self, row)
            holding.check_breaker(self, row, live)
            holding.check_budget(self, row, live, since)

    def _check_room(self, new: Row, live: list[Row], since: int) -> None:
        for what, limit in self.world.limits_since(since, new, self.before, self.now).items():
            busy = [row for row in live if row[what] == new[what]]
            if len(busy) > limit:
                names = ", ".join(self._name(row) for row in busy)
                detail = f"{self._name(new)} is one of {len(busy)} where {limit} fit ({what}): {names}"
                self.fail("a new attempt above the capacity", detail)

    def _check_wanted(self, new: Row) -> None:
        bead, name = self.now.tables["beads"][new["bead_id"]], self._name(new)
        if self.before.blockers_hold(bead["id"]) and self.now.blockers_hold(bead["id"]):
            self.fail("an attempt before its blockers are merged", name)
        if bead["held"]:
            self.fail("an attempt on a bead that is held", name)
        attempts = [row for row in self.now.tables["dispatches"].values() if row["bead_id"] == bead["id"]]
        earlier = [row for row in attempts if row is not new]
        if any(row["epoch"] >= new["epoch"] for row in earlier):
            self.fail("an epoch that is not new", name)
        counting = [row for row in earlier if row["epoch"] > bead["attempts_from"]]
        failed = [row for row in counting if row["failure_class"] in BACKED_OFF]
        before = self.before.tables["beads"].get(bead["id"])
        if len(failed) < 2 or bead["id"] in self.forced or before is None:
            self.forced.discard(bead["id"])
            return
        last = max(failed, key=lambda row: row["epoch"])
        waited = datetime.fromisoformat(new["queued_at"]) - datetime.fromisoformat(last["ended_at"])
        if waited < timedelta(seconds=25):
            self.fail("an attempt before the backoff of the last one", f"{name} after {waited.total_seconds():.0f} s")

    def _check_terminal(self, actor: Actor | None) -> None:
        """I4: what is over changes by a person alone, who retries it, or calls off what failed."""
        again = ("user retry", "user again", "user convoy add", "user convoy land", "user convoy partial")
        asked = actor is not None and actor.name.startswith(again)
        ended = actor is not None and actor.name.startswith("user ")
        for key, was in self.before.tables["beads"].items():
            is_now = self.now.tables["beads"].get(key, was)
            changed = (was["status"], was["resolution"]) != (is_now["status"], is_now["resolution"])
            called_off = was["status"] == "failed" and ended and is_now["resolution"] in ("canceled", "done")
            allowed = called_off or (asked and is_now["status"] == "open")
            if was["status"] in TERMINAL and changed and not allowed:
                detail = f"{self.world.name_of(key)}: {was['status']} -> {is_now['status']}"
                self.fail("a bead that was over changed", detail)
            landed_nothing = was["purpose"] == "landing" and was["resolution"] != "merged"
            if was["resolution"] in RELEASING and changed and not landed_nothing:
                self.fail("a result was taken back", self.world.name_of(key))
            if was["status"] in TERMINAL and not changed and any(was[fact] != is_now[fact] for fact in CHARGED):
                self.fail("a failure was charged to a bead that was over", self.world.name_of(key))
        for row in self.now.tables["dispatches"].values():
            if row["status"] in LIVE and self.now.tables["beads"][row["bead_id"]]["not_before"] is not None:
                self.fail("a live attempt whose bead waits out a backoff", self.world.name_of(row["id"]))

    def _check_processes(self) -> None:
        """G2: of one bead's processes, at most one is not fenced."""
        working: dict[str, str] = {}
        for node in self.world.nodes.values():
            for key, agent in node.agents.items():
                if key in self.fenced:
                    continue
                if agent.bead in working:
                    self.fail("two attempts at work on one bead", f"{working[agent.bead]}, {agent.name}")
                working[agent.bead] = agent.name

    def _check_work(self) -> None:
        """G3: what was saved is still known."""
        for key, wip in self.saved.items():
            if self.now.tables["dispatches"][key]["wip_sha"] != wip:
                self.fail("the work of an attempt was forgotten", self.world.name_of(key))

    # ---- what agents and runtimes tell ---------------------------------------------------------------

    def note_accepted(self, agent: "SimAgent", what: str) -> None:
        """A call was served. `fenced` is as of the step before, so before its transaction ended."""
        again = what == "reports" and agent.id in self.served | self.world.ended
        if agent.id in self.fenced and not again and not (what == "logs" and agent.id in self.world.ended):
            self.fail("a call of a fenced attempt was served", f"{agent.name} {what}")
        if what == "checkpoint":
            self.saved[agent.id] = self.world.wip_of(agent)
        if what == "reports":
            assert agent.report is not None
            self.world.ended[agent.id] = agent.report.outcome
            if agent.report.outcome == "succeeded":
                assert agent.report.head_sha is not None
                self.served.setdefault(agent.id, agent.report.head_sha)
            elif agent.report.wip_sha is not None:
                self.saved[agent.id] = agent.report.wip_sha

    def note_fenced(self, agent: "SimAgent", what: str) -> None:
        """409, so it must be fenced. The attempt's rows are looked at once more."""
        self._statements = -1
        self.look(None)
        if agent.id not in self.fenced:
            self.fail("an attempt that is not fenced was told so", f"{agent.name} {what}")
        elif what == "reports" and agent.id in self.world.ended:
            self.fail("a repeated done had another answer", agent.name)

    def note_published(self, task: str, args: tuple[Any, ...]) -> None:
        """L6: a message speaks of rows that are there."""
        tables = {"gastown.start_container": "dispatches", "gastown.merge": "merge_requests"}
        if task in tables and args[0] not in self.now.tables[tables[task]]:
            self.fail("a message about what is not committed", task)

    def note_start(self, dispatch_id: str) -> None:
        if dispatch_id in self.begun:
            self.fail("a start that two workers made", self.world.name_of(dispatch_id))
        self.begun.add(dispatch_id)

    def note_pile(self, queue: str, messages: int) -> None:
        if messages > MANY:
            self.fail("a queue that only grows", f"{messages} wait in {queue}")
        else:
            self.fail("a message that nobody can ever read", queue)

    def note_stop(self, dispatch_id: str) -> None:
        if dispatch_id not in self.fenced:
            self.fail("an attempt was stopped that is live or may be adopted", self.world.name_of(dispatch_id))

    def note_retry(self, bead_id: str) -> None:
        self.forced.add(bead_id)
