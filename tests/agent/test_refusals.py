"""What the API will not have, it will not have later either: nothing of it is tried for ever."""

import pytest

from tests.agent.town import Town, eventually


@pytest.mark.parametrize(("status", "title"), [(404, "NotFound"), (422, "UsageError")])
def test_an_assignment_that_the_api_cannot_make_fails_the_attempt_in_its_words(
    town: Town, status: int, title: str
) -> None:
    attempt = town.sling("echo ran")
    problem = {"title": title, "status": status, "detail": "there is no agent preset 'x'", "hint": "there is shell"}
    attempt.answers["assignment"] = (status, problem)
    town.start(attempt)
    assert town.wait_gone(attempt) == 0
    assert attempt.done is not None
    assert (attempt.done["outcome"], attempt.done["code"]) == ("failed", "preset_unusable")
    assert attempt.done["message"].endswith("there is no agent preset 'x'; there is shell")
    assert attempt.output == b""


def test_a_404_that_is_not_the_apis_own_is_waited_out(town: Town) -> None:
    attempt = town.sling("echo ran")
    attempt.answers["assignment"] = (404, {"detail": "Not Found"})
    town.start(attempt)
    eventually(lambda: len(attempt.of("assignment")) > 1)
    del attempt.answers["assignment"]
    assert town.wait_gone(attempt) == 0
    assert attempt.output == b"ran\n"


def test_a_message_of_bytes_that_are_no_text_is_made_printable(town: Town) -> None:
    """An agent's command that cannot be executed, by a name that is no UTF-8."""
    done = town.run("", argv=["no-such-\udce9-agent\0"]).done
    assert done is not None
    assert done["code"] == "command_not_found"
    assert done["message"].encode().isascii()
    assert "\0" not in done["message"]


@pytest.mark.parametrize(("script", "outcome"), [("echo 1 > one", "succeeded"), ("echo caf\u00e9; exit 3", "failed")])
def test_a_done_that_is_refused_is_said_once_more_in_fewer_words(town: Town, script: str, outcome: str) -> None:
    attempt = town.sling(script)
    attempt.refuses = lambda done: "no exit code is wanted" if done["exit_code"] is not None else ""
    town.start(attempt)
    assert town.wait_gone(attempt) == 0
    first, second = attempt.of("done")
    assert attempt.done == second
    assert second["outcome"] == outcome
    assert second["message"].isascii()
    assert (first["base_sha"], first["head_sha"]) == (second["base_sha"], second["head_sha"])
    assert (second["head_sha"] is None) == (outcome == "failed")


def test_a_done_that_is_refused_twice_ends_the_attempt_with_its_work_saved(town: Town) -> None:
    attempt = town.sling("echo 1 > one")
    attempt.refuses = lambda done: "never"
    town.start(attempt)
    assert town.wait_gone(attempt) == 1
    assert len(attempt.of("done")) == 2
    assert town.show("refs/gastown/wip/gt-1/1", "one") == "1"
    assert "never" in town.supervisor_log(attempt)
