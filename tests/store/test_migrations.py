"""What a migration does to the rows that it finds."""

import uuid
from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import Engine, text

from gastown import db, migrations
from tests.conftest import administer, url_of

OF_BEFORE = """
INSERT INTO towns (name, policy) VALUES ('plain', '{}'), ('slow', '{"heartbeat_lease_s": 200}');
INSERT INTO nodes (name, runtime, capacity) VALUES ('n', 'process', 8);
INSERT INTO rigs (town_id, name, repository, branch, policy) VALUES
    (1, 'none', '/r', 'main', '{}'),
    (1, 'own', '/r', 'main', '{"heartbeat_s": 60, "heartbeat_lease_s": 300}'),
    (2, 'towns', '/r', 'main', '{}'),
    (2, 'nonsense', '/r', 'main', '{"heartbeat_lease_s": "long"}'),
    (1, 'huge', '/r', 'main', '{"heartbeat_lease_s": 1e400}'),
    (1, 'no object', '/r', 'main', '[]');
"""
AN_ATTEMPT = """
WITH bead AS (
    INSERT INTO beads (id, town_id, rig_id, title, status)
    SELECT :id, town_id, id, 't', 'in_progress' FROM rigs WHERE name = :rig RETURNING id, town_id, rig_id
), agent AS (
    INSERT INTO agents (town_id, rig_id, name, status, bead_id)
    SELECT town_id, rig_id, id, CASE WHEN :live THEN 'working' ELSE 'idle' END, id FROM bead RETURNING id
)
INSERT INTO dispatches (town_id, rig_id, bead_id, agent_id, node_id, epoch, preset, status, code, ended_at,
                        started_at, heartbeat_at, lease_expires_at)
SELECT bead.town_id, bead.rig_id, bead.id, agent.id, 1, 1, 'shell', :status,
       CASE WHEN NOT :live THEN 'heartbeat_lost' END, CASE WHEN NOT :live THEN clock_timestamp() END,
       CASE WHEN CAST(:lease_s AS integer) IS NOT NULL THEN now() END,
       CASE WHEN CAST(:lease_s AS integer) IS NOT NULL THEN clock_timestamp() END,
       clock_timestamp() + CAST(:lease_s AS integer) * interval '1 second'
FROM bead, agent
"""


@pytest.fixture
def old(postgres_url: str) -> Iterator[Engine]:
    """A database as the first version left it, with rigs."""
    name = f"old_{uuid.uuid4().hex}"
    administer(postgres_url, f"CREATE DATABASE {name}")
    engine = db.make_engine(url_of(postgres_url, name))
    config = migrations._config()
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            connection.execute(text(OF_BEFORE))
            connection.commit()
        yield engine
    finally:
        engine.dispose()
        administer(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


# (rig, status, the lease that its last beat took), and what it keeps
LEASES = {
    ("own", "running", 300): 300,
    ("own", "running", 20): 20,  # of the numbers that were in force when it beat
    ("none", "running", 45): 45,
    ("none", "running", 90): 90,  # of the settings
    ("own", "lost", 300): 300,  # it may come back
    ("own", "rolled_back", None): 300,
    ("own", "queued", None): 300,
    ("none", "queued", None): 45,
    ("towns", "starting", None): 200,
    ("nonsense", "starting", None): 200,
    ("huge", "starting", None): 45,
    ("no object", "starting", None): 45,
}


def test_what_outlives_the_upgrade_keeps_its_lease(old: Engine) -> None:
    """A beat every minute and a lease of 45 s: it would be given up between any two beats."""
    with old.begin() as connection:
        for number, (rig, status, lease_s) in enumerate(LEASES):
            values = {"id": f"b{number}", "rig": rig, "status": status, "lease_s": lease_s}
            live = status in ("queued", "starting", "running")
            connection.execute(text(AN_ATTEMPT), values | {"live": live})
    migrations.upgrade(old)
    with old.connect() as connection:
        kept = {row.bead_id: row.lease_s for row in connection.execute(text("SELECT bead_id, lease_s FROM dispatches"))}
    assert [kept[f"b{number}"] for number in range(len(LEASES))] == list(LEASES.values())
