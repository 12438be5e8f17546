"""Stops that a heartbeat asks for, and what an agent says of its costs, tools and limits: the real supervisor."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gastown.agent import line
from gastown.agent.announced import Announced
from gastown.agent.client import Client
from gastown.agent.failures import Failed
from gastown.agent.heartbeat import NEWS_S, Heart
from gastown.agent.protocol import Done
from tests.agent.test_relay import released, waiting
from tests.agent.town import Attempt, Town, eventually, git

STOP = (200, {"status": "ok", "stop": "stalled", "reason": "no output for 2 h"})
TRAP = "trap 'echo asked > asked.txt; exit 0' TERM; echo work > work.txt; echo up; while :; do sleep 0.05; done"


def last_beat(attempt: Attempt) -> dict[str, Any]:
    return attempt.of("heartbeat")[-1]


# --- asked to stop


@pytest.mark.parametrize("script", [TRAP, "echo work > work.txt; echo up; (setsid sleep 300 &); sleep 300"])
def test_asked_by_an_answer_it_winds_down_and_says_why(town: Town, script: str) -> None:
    attempt = town.sling(script)
    town.start(attempt)
    town.wait_output(attempt, b"up")
    attempt.answers["heartbeat"] = STOP
    assert town.wait_gone(attempt) == 0
    done = attempt.done
    assert done is not None
    assert (done["outcome"], done["code"], done["message"]) == ("stopped", "stalled", "no output for 2 h")
    assert town.show(done["wip_sha"], "work.txt") == "work"
    assert git("cat-file", "-p", "refs/gastown/wip/gt-1/1:work.txt", cwd=town.repository) == "work"
    assert ("asked.txt" in town.paths(done["wip_sha"])) is (script is TRAP)
    assert not town.left(attempt)


def test_asked_before_there_is_an_agent_it_starts_none(town: Town) -> None:
    attempt = town.sling("echo ran", setup="sleep 300")
    attempt.answers["heartbeat"] = STOP
    town.start(attempt)
    assert town.wait_gone(attempt) == 0
    assert attempt.done is not None
    assert (attempt.done["outcome"], attempt.done["code"]) == ("stopped", "stalled")
    assert b"ran" not in attempt.output


def test_success_before_it_heard_of_the_stop_counts(town: Town) -> None:
    """Its last heartbeat says stop, when the agent is done and the candidate is on its way."""
    hook = town.repository / "hooks" / "pre-receive"
    held, go = town.home / "held", town.home / "go"
    hook.write_text(f"#!/bin/sh\ntouch {held}\nuntil test -e {go}; do sleep 0.05; done\n")
    hook.chmod(0o755)
    attempt = town.sling("echo work > work.txt")
    town.start(attempt)
    eventually(held.exists)
    attempt.answers["heartbeat"] = STOP
    seen = len(attempt.of("heartbeat"))
    eventually(lambda: len(attempt.of("heartbeat")) > seen or attempt.done)
    go.touch()
    assert town.wait_gone(attempt) == 0
    assert attempt.done is not None
    assert attempt.done["outcome"] == "succeeded"
    assert town.show(attempt.done["head_sha"], "work.txt") == "work"


def test_an_answer_of_an_older_api_says_nothing_of_a_stop(town: Town) -> None:
    attempt, go = waiting(town, "true")
    attempt.answers["heartbeat"] = (200, {})
    seen = len(attempt.of("heartbeat"))
    eventually(lambda: len(attempt.of("heartbeat")) > seen + 1)
    assert released(town, attempt, go)["outcome"] == "succeeded"


# --- costs and tools


def test_costs_and_tools_go_with_the_next_beat_at_once(town: Town) -> None:
    attempt, go = waiting(town, "gastown self cost 0.25; gastown self tool begin tests; echo told", heartbeat_s=60)
    town.wait_output(attempt, b"told")
    eventually(lambda: (last_beat(attempt)["cost_usd"], last_beat(attempt)["tool_running"]) == (0.25, True))
    path = town.files(attempt).socket
    assert line.ask(path, "tool", {"step": "end", "name": "tests"}).ok
    eventually(lambda: not last_beat(attempt)["tool_running"])
    assert last_beat(attempt)["progressed"]
    assert line.ask(path, "cost", {"usd": 0.75}).ok
    assert line.ask(path, "cost", {"usd": 0.5}).ok
    done = released(town, attempt, go)
    assert (done["outcome"], done["cost_usd"]) == ("succeeded", 0.75)
    assert [body["cost_usd"] for body in attempt.of("heartbeat")] == sorted(
        body["cost_usd"] for body in attempt.of("heartbeat")
    )


def test_without_the_api_it_is_kept(town: Town) -> None:
    attempt, go = waiting(town, "")
    town.down = True
    path = town.files(attempt).socket
    assert line.ask(path, "cost", {"usd": 3}).ok
    assert line.ask(path, "limit", {"text": "429"}).ok
    town.down = False
    eventually(lambda: last_beat(attempt)["cost_usd"] == 3)
    assert released(town, attempt, go)["cost_usd"] == 3


@pytest.mark.parametrize(
    ("call", "body", "words"),
    [
        ("cost", {"usd": -1}, "from 0 to 1e+06"),
        ("cost", {"usd": 1e7}, "from 0 to 1e+06"),
        ("cost", {"usd": "much"}, "is a number"),
        ("cost", {"usd": float("nan")}, "is a number"),
        ("cost", {"usd": True}, "is a number"),
        ("cost", {}, "is a number"),
        ("cost", [], "is an object"),
        ("tool", {"step": "begin"}, "name is missing"),
        ("tool", {"step": "pause", "name": "x"}, "begins or ends"),
        ("limit", {"text": " "}, "is missing"),
        ("limit", {"text": "x", "retry_at": "soon"}, "a time with a zone"),
        ("limit", {"text": "x", "retry_at": "2030-01-01T00:00:00"}, "a time with a zone"),
        ("limit", {"text": "x", "retry_after_s": -1}, "the pause in seconds"),
        ("locked_out", {"text": 7}, "is missing"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(call: str, body: object, words: str) -> None:
    announced = Announced()
    with pytest.raises(ValueError, match=words.replace("+", r"\+")):
        announced.take(call, body)
    assert (announced.cost_usd, announced.tool_running, announced.gave_up) == (0, False, False)


def test_tools_are_counted_by_name() -> None:
    announced = Announced()
    for step, name, running in [
        ("end", "never began", False),
        ("begin", "a", True),
        ("begin", "a", True),
        ("begin", "b", True),
        ("end", "a", True),
        ("end", "b", True),
        ("end", "a", False),
        ("end", "a", False),
    ]:
        announced.take("tool", {"step": step, "name": name})
        assert announced.tool_running is running
    assert announced.steps == 8
    for number in range(1000):
        announced.take("tool", {"step": "begin", "name": f"{number}"})
    with pytest.raises(ValueError, match="1000 tools run already"):
        announced.take("tool", {"step": "begin", "name": "one more"})


def test_a_chatty_agent_does_not_beat_all_the_time(town: Town) -> None:
    attempt, go = waiting(town, "", heartbeat_s=60)
    path, before = town.files(attempt).socket, len(attempt.of("heartbeat"))
    began = time.monotonic()
    while time.monotonic() - began < 2 * NEWS_S:
        assert line.ask(path, "tool", {"step": "begin", "name": "x"}).ok
        assert line.ask(path, "tool", {"step": "end", "name": "x"}).ok
    assert len(attempt.of("heartbeat")) - before <= 2 + (time.monotonic() - began) / NEWS_S
    released(town, attempt, go)


def test_a_stopped_heart_ends_at_once() -> None:
    announced = Announced()
    heart = Heart(Client("http://127.0.0.1:9", "t"), announced, lambda: None, lambda code, why: None, lambda text: None)
    heart.start()
    threading.Thread(target=heart.tell).start()
    heart.stop()
    heart.join(60)
    assert not heart.is_alive()


# --- limits and logins


def test_a_limit_ends_the_attempt_as_one(town: Town) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    script = f"echo half > half.txt; gastown self limit --until {at.isoformat()} 5 h are used up; exit 1"
    done = town.run(script).done
    assert done is not None
    assert (done["outcome"], done["code"], done["exit_code"]) == ("failed", "rate_limited", 1)
    assert datetime.fromisoformat(done["retry_at"]) == at
    assert done["message"].startswith("5 h are used up\nthe agent exited with 1")
    assert town.show(done["wip_sha"], "half.txt") == "half"


def test_a_pause_in_seconds_runs_from_when_it_was_said(town: Town) -> None:
    done = town.run("gastown self limit --for 600 slow down; sleep 0.2; exit 7").done
    assert done is not None
    assert (done["code"], done["retry_at"]) == ("rate_limited", None)
    assert 0 < done["retry_after_s"] < 600


def test_locked_out(town: Town) -> None:
    done = town.run("gastown self locked-out 401: log in again; exit 1").done
    assert done is not None
    assert (done["outcome"], done["code"]) == ("failed", "auth_failed")
    assert done["message"].startswith("401: log in again")


def test_an_agent_that_got_past_its_limit_succeeds(town: Town) -> None:
    done = town.run("gastown self limit slow down; echo work > work.txt").done
    assert done is not None
    assert (done["outcome"], done["code"], done["retry_after_s"]) == ("succeeded", None, None)


def test_an_agent_that_gave_up_and_says_0_has_not_found_that_nothing_is_to_do(town: Town) -> None:
    """Exit codes lie (measured on six CLIs): its bead would be closed as `no_changes`."""
    done = town.run("gastown self limit slow down").done
    assert done is not None
    assert (done["outcome"], done["code"], done["exit_code"]) == ("failed", "rate_limited", 0)


def test_only_its_own_failure_is_told_with_a_pause() -> None:
    announced = Announced()
    announced.take("limit", {"text": "429", "retry_after_s": 60})
    assert announced.told(Done(outcome="failed", code="workspace_failed")).retry_after_s is None
    failed = announced.failed(Failed("agent_failed", "it exited with 3", 3))
    assert (failed.code, failed.exit_code, str(failed)) == ("rate_limited", 3, "429\nit exited with 3")
    announced.take("locked_out", {"text": "401"})
    assert announced.failed(Failed("agent_failed", "x", 3)).code == "auth_failed"
    assert announced.told(Done(outcome="failed", code="auth_failed")).retry_after_s is None
