"""Beads of convoys sleep only where that is right, and nobody is told that they sleep wrongly."""

from gastown.commands import convoys, edges, work
from gastown.db import transaction
from gastown.models import Rig
from gastown.states import ConvoyStatus, Verdict
from gastown.store import landings, resync
from gastown.store.moves import lock_bead
from tests.builders import a_rig
from tests.races import committed
from tests.store import convoying as they
from tests.ticks import tick, verdict_of


def test_work_that_waits_for_the_start_of_its_convoy_is_nothing_to_alert_of(town_id: int) -> None:
    [begun] = they.members(1)
    tick()
    committed(lambda session: work.hold(session, town_id, begun, "not now"))
    committed(lambda session: work.release(session, town_id, begun))
    they.make(town_id, [begun], start=False)
    assert (they.bead(begun).status, verdict_of(they.bead(begun))) == ("in_progress", Verdict.STAGED)
    with transaction() as session:
        assert resync.find_violations(session) == []
        assert resync.wake_forgotten(session) == {}


def test_the_landing_that_ends_last_ends_the_convoy_and_no_other_is_woken_for_that(town_id: int) -> None:
    other: Rig = committed(lambda session: a_rig(session, name="other"))
    convoy_id = they.one_by_one(town_id, [*they.members(1), *they.members(1, other)])
    first, last = they.landings(convoy_id)
    for landing in (first, last):
        committed(lambda session, key=landing.id: landings.close_landing(session, lock_bead(session, key), "over"))
        with transaction() as session:
            assert resync.wake_forgotten(session) == {}
        tick()
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED


def test_who_waits_for_a_bead_that_joins_says_that_it_waits_for_the_landing(town_id: int) -> None:
    joins, inside, outside = they.members(3)
    committed(lambda session: edges.block(session, town_id, outside, joins))
    convoy_id = they.make(town_id, [inside], start=False)
    assert they.bead(outside).verdict_reason == f"waits for {joins}"
    committed(lambda session: convoys.add(session, town_id, convoy_id, [joins]))
    tick()
    [landing] = they.landings(convoy_id)
    assert they.bead(outside).verdict_reason == f"waits for {', '.join(sorted((joins, landing.id)))}"
    assert verdict_of(landing) == Verdict.STAGED
