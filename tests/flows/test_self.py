"""What an agent says from its shell, through the real stack: the town shows it, and the work it files is done."""

from tests.flows.town import Town, git, until

SCRIPT = """set -e
echo first > first.txt
gastown self show
gastown self status "half way"
gastown self escalate "which database?"
filed=$(gastown self bead "The second half" --body 'cat first.txt > second.txt' --after self --key half | cut -d' ' -f1)
again=$(gastown self bead "The second half" --body 'cat first.txt > second.txt' --after self --key half | cut -d' ' -f1)
test "$filed" = "$again"
until test -e go; do sleep 0.05; done
rm go
"""


def test_an_agent_speaks_and_files_work_that_runs_after_its_own_is_merged(town: Town) -> None:
    first = town.sling(SCRIPT)
    asked = until("it asks for a person", lambda: [e for e in town.events(first) if e.kind == "escalation"])
    told = until("it files work", lambda: [e for e in town.events(first) if e.kind == "filed"])
    [attempt] = town.attempts(first)
    assert attempt.status_text == "half way"
    assert [event.message for event in asked] == ["which database?"]
    second = told[0].message.partition(":")[0]
    assert town.bead(second).labels == [f"from:{first}:half", f"family:{first}"]
    until("it is held", lambda: town.bead(second).verdict == "blocked")
    assert town.attempts(second) == []
    (town.settings.home / "work" / first / "1" / "go").touch()
    town.merged(first, second)
    assert town.read("second.txt") == "first"
    assert len([event for event in town.events(first) if event.kind == "filed"]) == 1
    request = town.request(first)
    assert request.merged_at is not None
    assert town.attempts(second)[0].queued_at > request.merged_at
    agents = {event.actor for event in told} | {event.actor for event in asked}
    assert {event.actor for event in town.events(second) if event.kind == "created"} == agents


def test_nothing_in_the_environment_of_an_agent_can_speak_for_it(town: Town) -> None:
    """S75. The only thing of ours in it are the marks, and the path of a socket that goes with the attempt."""
    bead = town.sling("env > environment.txt; gastown self status said")
    town.merged(bead)
    lines = town.read("environment.txt").splitlines()
    ours = {line.partition("=")[0]: line.partition("=")[2] for line in lines if line.startswith("GASTOWN_")}
    assert sorted(name.removeprefix("GASTOWN_") for name in ours) == [
        "AGENT",
        "BEAD",
        "DISPATCH",
        "EPOCH",
        "PLACE",
        "SELF",
    ]
    assert not [line for line in lines if "TOKEN" in line.upper()]
    assert git("log", "-1", "--format=%s", "main", cwd=town.repository).startswith(f"Merge {bead}")
