"""A town for benches: a rig, a node that is alive, and beads in every state that a tick can meet."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from bench.history import History
from bench.server import execute, ground
from gastown.commands import towns, work
from gastown.db import in_transaction

ROOMY = {"max_running": 100_000, "rig_max_running": 100_000}
NODE_CAPACITY = 100_000


@dataclass
class BenchTown:
    folder: Path
    id: int
    rig_id: int
    history: History

    def sling(self, count: int) -> list[str]:
        """Beads in one transaction."""

        def write(session):  # type: ignore[no-untyped-def]
            rig = towns.get_rig(session, self.id, "bench")
            return [work.sling(session, self.id, rig, work.NewBead(title=f"bead {n}")) for n in range(count)]

        return in_transaction(write)

    def beat(self) -> None:
        """Node and API show that they are alive, for a long time to come."""
        execute(
            "UPDATE nodes SET heartbeat_at = gastown_now() + interval '1 day'",
            "INSERT INTO services (name, alive_at, back_at) VALUES ('api', gastown_now() + interval '1 day', "
            "gastown_now() - interval '1 day') ON CONFLICT (name) DO UPDATE SET alive_at = excluded.alive_at",
        )

    def set_running(self) -> None:
        """Every queued attempt has made its first call."""
        execute(
            "UPDATE dispatches SET status = 'running', starting_at = gastown_now(), started_at = gastown_now(), "
            "progress_at = gastown_now(), heartbeat_at = gastown_now(), "
            "lease_expires_at = gastown_now() + interval '45 s' WHERE status = 'queued'",
            "UPDATE beads SET wake_at = gastown_now() WHERE status = 'in_progress'",
        )

    def clear(self) -> None:
        """Drop all that is not history, and what is in the broker."""
        execute(
            "DELETE FROM api_tokens",
            "DELETE FROM merge_requests WHERE bead_id LIKE 'gt-%'",
            "DELETE FROM dispatches WHERE bead_id LIKE 'gt-%'",
            "DELETE FROM agents WHERE bead_id IS NOT NULL OR name <> 'history'",
            "DELETE FROM decisions WHERE bead_id LIKE 'gt-%'",
            "DELETE FROM events WHERE bead_id LIKE 'gt-%'",
            "DELETE FROM beads WHERE id LIKE 'gt-%'",
            "VACUUM ANALYZE beads, dispatches, agents",
        )
        empty_broker()


@contextmanager
def bench_town() -> Iterator[BenchTown]:
    with ground() as folder:

        def make(session):  # type: ignore[no-untyped-def]
            town = towns.ensure_town(session, "default")
            session.execute(text("UPDATE towns SET policy = :policy"), {"policy": json.dumps(ROOMY)})
            new = towns.NewRig(name="bench", repository="/nowhere", branch="main", agent="shell")
            rig = towns.add_rig(session, town, new).id
            node = towns.beat_node(session, "local", "process", NODE_CAPACITY)
            agent = session.scalar(
                text(
                    "INSERT INTO agents (town_id, rig_id, name, status, idle_since) "
                    "VALUES (:town, :rig, 'history', 'retired', NULL) RETURNING id"
                ),
                {"town": town, "rig": rig},
            )
            return town, rig, agent, node

        town, rig, agent, node = in_transaction(make)
        made = BenchTown(folder, town, rig, History(town, rig, agent, node))
        made.beat()
        yield made


def empty_broker() -> None:
    from gastown.celery_app import app  # reads its settings when it is imported

    with app.connection_for_write() as connection:
        connection.default_channel.client.flushdb()
