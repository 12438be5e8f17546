"""Look for a cycle edge by edge: walking every path took for ever where many paths lead to one bead."""

from alembic import op

revision = "0003"
down_revision = "0002"

# `upstream` has each edge above the new one once. When the new edge closes a cycle, `back` walks one way of it.
NO_CYCLE = """
CREATE OR REPLACE FUNCTION refuse_cycle() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    path text[];
BEGIN
    PERFORM pg_advisory_xact_lock(7270002);
    IF NOT EXISTS (SELECT FROM bead_dependencies WHERE blocker_id = NEW.bead_id) THEN
        RETURN NEW;  -- nobody waits for it, as is so with every new bead
    END IF;
    WITH RECURSIVE upstream(id, via) AS (
        SELECT NEW.blocker_id, NEW.bead_id
        UNION
        SELECT edge.blocker_id, edge.bead_id
        FROM upstream JOIN bead_dependencies AS edge ON edge.bead_id = upstream.id
    ), back(id, path) AS (
        SELECT NEW.bead_id, ARRAY[NEW.bead_id]
        UNION ALL
        SELECT step.via, step.via || back.path
        FROM back JOIN LATERAL (SELECT via FROM upstream WHERE id = back.id LIMIT 1) AS step ON true
        WHERE back.id <> NEW.bead_id OR cardinality(back.path) = 1
    )
    SELECT back.path INTO path FROM back WHERE id = NEW.bead_id AND cardinality(back.path) > 1;
    IF path IS NOT NULL THEN
        RAISE EXCEPTION 'cycle: %', array_to_string(path, ' waits for ')
            USING ERRCODE = 'check_violation', CONSTRAINT = 'bead_dependencies_no_cycle';
    END IF;
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    op.execute(NO_CYCLE)
