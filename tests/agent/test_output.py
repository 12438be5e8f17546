"""Output on its way from the agent to the town (S72)."""

from pathlib import Path

import pytest

from gastown.agent import output as output_module
from gastown.agent.command import HeadAndTail
from gastown.agent.output import Spool
from gastown.agent.protocol import CHUNK_BYTES, LOG_BYTES
from tests.agent.town import Town, eventually


def drain(spool: Spool) -> list[bytes]:
    chunks, position = [], 0
    while (found := spool.next_chunk(position)) is not None:
        data, position = found
        chunks.append(data)
    spool.release()
    return chunks


@pytest.mark.parametrize("sizes", [[10], [5, 5, 5], [40], [1] * 100, [99, 1], [60, 60], [33, 33, 33, 33]])
def test_a_spool_keeps_head_and_tail_in_order(tmp_path: Path, sizes: list[int]) -> None:
    data = bytes(i % 251 for i in range(sum(sizes)))
    spool = Spool(tmp_path / "s", limit_bytes=40)
    position = 0
    for size in sizes:
        spool.add(data[position : position + size])
        position += size
    spool.close()
    got = b"".join(drain(spool))
    expected = HeadAndTail(40)
    expected.add(data)
    assert got == expected.value()


def test_a_spool_without_room_loses_output_but_never_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "s")

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output_module.os, "pwrite", full)
    spool.add(b"lost")
    monkeypatch.undo()
    spool.add(b"kept")
    spool.close()
    assert b"".join(drain(spool)) == b"kept"
    assert "No space left" in spool.trouble
    assert spool.last() == "lostkept"


def test_what_is_quoted_of_a_long_output_begins_where_a_line_begins(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s")
    for number in range(1000):
        spool.add(b"line %d of many\n" % number)
    note, *shown = spool.last().splitlines()
    spool.close()
    spool.release()
    assert (note, shown[-1]) == (f"... {1000 - len(shown)} earlier lines", "line 999 of many")
    assert shown[0] == f"line {1000 - len(shown)} of many"


def test_binary_output_and_endless_lines_arrive_as_they_are(town: Town) -> None:
    script = r"printf 'a\000\377\033[31mred\033[0m\n'; head -c 5000000 /dev/zero | tr '\0' x; echo end >&2"
    attempt = town.run(script)
    assert attempt.output == b"a\x00\xff\x1b[31mred\x1b[0m\n" + b"x" * 5_000_000 + b"end\n"
    assert max(map(len, attempt.logs.values())) <= CHUNK_BYTES
    assert sorted(attempt.logs) == list(range(len(attempt.logs)))


def test_output_is_seen_while_the_agent_works(town: Town) -> None:
    go = town.home / "go"
    attempt = town.sling(f"echo one; until test -e {go}; do sleep 0.05; done; echo two; sleep 300")
    town.start(attempt)
    town.wait_output(attempt, b"one\n")
    go.touch()
    town.wait_output(attempt, b"two\n")
    assert town.runtime.inspect(attempt.name).present


def test_an_endless_stream_is_bounded_and_does_not_wait_for_a_dead_api(town: Town) -> None:
    attempt = town.sling("echo up; echo first; head -c 100000000 /dev/zero; echo last; touch finished")
    pid = town.start(attempt)
    town.wait_output(attempt, b"up")
    town.down = True
    eventually(lambda: "done: HTTP 503" in town.supervisor_log(attempt))
    memory = int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])
    assert memory < 80_000, "kB: the output is on disk, not in memory"
    town.down = False
    town.wait_gone(attempt, 60)
    assert attempt.done is not None
    assert "finished" in town.paths(attempt.done["head_sha"])
    assert attempt.output.startswith(b"up\nfirst\n")
    assert attempt.output.endswith(b"last\n")
    assert len(attempt.output) < LOG_BYTES + 100
    assert b"bytes left out" in attempt.output
