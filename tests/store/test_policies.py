"""The numbers in force, also where what is stored makes no sense."""

from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.commands import attempt
from gastown.db import transaction
from gastown.errors import Refused
from gastown.models import MergeRequest, Rig, Town
from gastown.reconcile.policy import Policy
from gastown.states import DispatchStatus
from gastown.store.explain import explain
from gastown.store.holdups import summarise
from gastown.store.policies import Policies, load_policies, policy_of, town_policy
from gastown.tasks.merge import merge
from gastown.tasks.reconcile import reconcile_town
from tests.builders import a_bead, a_rig, an_attempt, now
from tests.races import committed
from tests.ticks import live, tick
from tests.views import after

NONSENSE = [
    (7, "7 is stored"),
    ([{"max_running": 1}], "is stored"),
    (None, "null is stored"),
    ({"from_tomorrow": 3}, "from_tomorrow = 3"),
    ({"max_running": "many"}, "max_running = 'many'"),
    ({"backoff_s": [{}]}, "backoff_s"),
    ({"heartbeat_lease_s": 15, "heartbeat_s": 10}, "15"),
]


@pytest.mark.parametrize(("lease_s", "beat_s"), [(45, 15), (9, 3), (300, 60)])
def test_an_attempt_beats_as_often_as_its_lease_wants(
    town: Town, own_home: Path, lease_s: float, beat_s: float
) -> None:
    """The lease is of when it was made; the policy may have changed since."""
    with transaction() as session:
        dispatch = an_attempt(session, DispatchStatus.QUEUED, lease_s=lease_s)
        a_rig(session).policy = {"heartbeat_s": 60, "heartbeat_lease_s": 300}
    assert committed(lambda session: attempt.assignment(session, dispatch.id, own_home)).heartbeat_s == beat_s


@pytest.mark.parametrize(("stored", "says"), NONSENSE)
def test_a_rig_whose_numbers_make_no_sense_has_the_towns_and_is_named(town: Town, stored: object, says: str) -> None:
    with transaction() as session:
        session.get_one(Town, town.id).policy = {"republish_s": [7, 8]}
        rig, other = a_rig(session), a_rig(session, name="other", policy={"rig_max_running": 2})
        rig.policy = stored  # type: ignore[assignment]
    with transaction() as session:
        found = load_policies(session, town.id)
        assert found.town.republish_s == found.rigs[rig.id].republish_s == (7, 8)
        assert found.rigs[other.id].rig_max_running == 2
        assert set(found.wrong) == {rig.id}
        assert found.wrong[rig.id].startswith("policy of rig rig: ")
        assert says in found.wrong[rig.id]
        assert found.wrong_for(other.id) is None
        assert policy_of(session, rig.id) == found.town


@pytest.mark.parametrize(("stored", "says"), NONSENSE)
def test_a_town_whose_numbers_make_no_sense_has_the_settings(town: Town, stored: object, says: str) -> None:
    with transaction() as session:
        session.get_one(Town, town.id).policy = stored  # type: ignore[assignment]
        rig = a_rig(session)
        rig.policy = {"rig_max_running": 2}
    with transaction() as session:
        found = load_policies(session, town.id)
        assert found.town == town_policy(session, town.id) == Policy()
        assert found.rigs[rig.id].rig_max_running == policy_of(session, rig.id).rig_max_running == 2
        assert set(found.wrong) == {None}
        assert says in str(found.wrong_for(rig.id))


def test_a_rig_of_a_wrong_town_is_not_blamed_for_it(town: Town) -> None:
    with transaction() as session:
        session.get_one(Town, town.id).policy = {"heartbeat_lease_s": 300, "no_such": 1}
        a_rig(session).policy = {"heartbeat_s": 60}
    with transaction() as session:
        assert set(load_policies(session, town.id).wrong) == {None}


@pytest.mark.parametrize(("stored", "kind"), [(3, "number"), (None, "null"), (["A"], "array"), ("A=1", "string")])
def test_an_environment_that_is_none_starts_nothing_and_is_named(town: Town, stored: object, kind: str) -> None:
    """Else each attempt would fail to get its work, as the machine's fault, for ever."""
    with transaction() as session:
        rig, other = a_rig(session), a_rig(session, name="other")
        rig.environment = stored  # type: ignore[assignment]
        beads = [a_bead(session, each) for each in (rig, other)]
        stuck = an_attempt(session, DispatchStatus.STARTING, rig=rig)
        done = an_attempt(session, DispatchStatus.SUCCEEDED, rig=rig)
        request = session.scalars(select(MergeRequest).where(MergeRequest.dispatch_id == done.id)).one()
    tick()
    assert {each.bead_id for each in live()} == {beads[1].id, stuck.bead_id}
    with transaction() as session:
        said, *_ = explain(session, town.id, [beads[0].id])
        summed = [each for each in summarise(session, town.id).holdups if each.verdict == "misconfigured"]
    why = f"environment of rig rig: a JSON {kind} is stored, and ought to be an object such as {{}}"
    assert (said.verdict, said.reason, said.command) == ("misconfigured", why, "gastown rig set rig --environment")
    assert [(each.reason, each.command, each.needs_you) for each in summed] == [(why, said.command, True)]
    with pytest.raises(Refused, match="ought to be an object"):
        committed(lambda session: attempt.assignment(session, stuck.id, Path()))
    for _ in range(2):
        merge(request.id)
    held = now(request)
    assert (held.status, held.held_code, held.held_reason) == ("open", "merge_error", why)
    assert held.look_at is not None
    with transaction() as session:
        session.get_one(Rig, rig.id).environment = {}
    tick()
    assert beads[0].id in {each.bead_id for each in live()}


@pytest.mark.parametrize("reads", ["gastown.store.policies", "gastown.store.explain", "gastown.store.holdups"])
def test_a_rig_that_is_added_after_the_numbers_were_read(
    town: Town, monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    """It has no numbers yet, so nothing is started on it; the others go on, and the next tick has them."""
    old = committed(lambda session: a_bead(session, wake_at=None, ready_at=after(0), verdict="ready"))
    added: list[str] = []

    def then_a_rig(session: Session, town_id: int) -> Policies:
        numbers = load_policies(session, town_id)
        if not added:
            with transaction() as other:
                rig = a_rig(other, name="new", town_id=town_id, policy={"rig_max_running": 1})
                added.append(a_bead(other, rig, wake_at=None, ready_at=after(0), verdict="ready").id)
        return numbers

    monkeypatch.setattr(f"{reads}.load_policies", then_a_rig)
    if reads == "gastown.store.policies":
        reconcile_town(town.id)
        assert {each.bead_id for each in live()} == {old.id, *added}
        return
    with transaction() as session:
        for _ in range(2):
            ids = [old.id, *added]
            assert [each.verdict for each in explain(session, town.id, ids)] == ["ready"] * len(ids)
            assert {each.verdict for each in summarise(session, town.id).holdups} == {"ready"}
