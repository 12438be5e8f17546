"""A repository of 100,000 files and 50,000 commits: how long attempts and merges wait for git on a warm node."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.report import row
from gastown.agent import upkeep
from gastown.agent.git import git
from gastown.agent.mirror import Mirror
from gastown.agent.protocol import head_ref
from gastown.gates import Gate
from gastown.refinery import merging
from gastown.runtimes.process import ProcessRuntime

FILES, COMMITS, FOLDER = 100_000, 50_000, 100
LIMIT_S = 2.0
TIMES = 3
WHO = {f"GIT_{role}_{what}": "bench" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def worktrees() -> None:
    """Ratios are to the 2 s of a second attempt's worktree, and of a merge; a plain clone stands beside them."""
    with _ground() as folder:
        remote = folder / "remote.git"
        made = _time(lambda: fill(remote, FILES, COMMITS))
        mirror = Mirror.open(folder / "home", 1, str(remote))
        first = _time(mirror.fetch)
        _row("first fetch of the mirror", first, f"{FILES:,} files, {COMMITS:,} commits, made in {made:.0f} s")
        target = mirror.target("main") or ""
        _row("fetch of no news", min(_time(mirror.fetch) for _ in range(TIMES)))
        plain = _clones(lambda path: git("clone", "--quiet", str(remote), str(path)), folder)
        _row("plain git clone", plain)
        own = _clones(lambda path: mirror.clone(path, target, "gt/gt-1"), folder)
        _row("worktree of an attempt", own, f"{plain / own:.1f}x as fast as a clone")
        _row("the files alone, written by one process", _written(folder, mirror, target))
        _row("merge, no gates", _merges(folder, mirror, target, ()))
        _row("merge, a gate", _merges(folder, mirror, target, (Gate(name="true", command="true"),)))
        _row("repacking the mirror", min(_time(lambda: upkeep.repack(mirror)) for _ in range(TIMES)))


def fill(remote: Path, files: int, commits: int) -> None:
    """One commit with all files, of 400 bytes each, then one that changes a file for each further one."""
    git("init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    command = ["git", "fast-import", "--quiet", "--force"]
    with subprocess.Popen(command, cwd=remote, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for part in _history(files, commits):
            process.stdin.write(part)
        process.stdin.close()
    if process.returncode:
        raise SystemExit(f"git fast-import: {process.returncode}")


def _history(files: int, commits: int) -> Iterator[bytes]:
    yield _commit(0)
    for number in range(files):
        yield _file(number, f"file {number}\n".encode() * 30)
    for number in range(1, commits):
        yield _commit(number)
        yield _file(number * 7919 % files, f"change {number}\n".encode() * 30)


def _commit(number: int) -> bytes:
    message = f"commit {number}"
    when = 1_700_000_000 + number
    return f"commit refs/heads/main\ncommitter b <b@localhost> {when} +0000\ndata {len(message)}\n{message}\n".encode()


def _file(number: int, content: bytes) -> bytes:
    name = f"d{number // FOLDER // FOLDER:02}/d{number // FOLDER % FOLDER:02}/f{number % FOLDER:02}"
    return f"M 100644 inline {name}\ndata {len(content)}\n".encode() + content + b"\n"


def _merges(folder: Path, mirror: Mirror, target: str, gates: tuple[Gate, ...]) -> float:
    """From the claim to the target's new head, without the records: what the refinery does with git, files, gates."""
    runtime = ProcessRuntime(folder / "home")
    times = []
    for number in range(TIMES):
        bead = f"gt-{len(gates)}{number}"
        sha = _work(mirror, f"{target}~{50 + number}", f"{target}~{49 + number}^{{tree}}", bead)
        job = merging.MergeJob(
            home=folder / "home",
            rig_id=1,
            repository=mirror.repository,
            target="main",
            bead_id=bead,
            dispatch_id="0",
            title="A change",
            head_sha=sha,
            head_ref=head_ref(bead, 1),
            gates=gates,
            environment={"PATH": os.environ["PATH"]},
        )
        times.append(_time(lambda job=job: _merge(replace(job), runtime)))  # type: ignore[misc]
    return min(times)


def _work(mirror: Mirror, parent: str, tree: str, bead: str) -> str:
    """A commit on an older head with the change that another one made: it merges with what came after."""
    sha = git("commit-tree", tree, "-p", parent, "-m", bead, cwd=mirror.path, env=WHO).strip()
    mirror.set_ref(head_ref(bead, 1), sha)
    return sha


def _merge(job: merging.MergeJob, runtime: ProcessRuntime) -> None:
    prepared = merging.prepare(job, runtime, lambda step: None, lambda: False)
    if not isinstance(prepared, merging.Prepared) or merging.push(job, prepared) != merging.Pushed():
        raise SystemExit(f"not merged: {prepared}")


def _clones(make: Callable[[Path], object], folder: Path) -> float:
    times = []
    for number in range(TIMES):
        path = folder / f"tree-{number}"
        times.append(_time(lambda path=path: make(path)))  # type: ignore[misc]
        shutil.rmtree(path)
    return min(times)


def _written(folder: Path, mirror: Mirror, target: str) -> float:
    """What one process cannot be faster than on this disk: create and write each file."""
    names = git("ls-tree", "-r", "--name-only", target, cwd=mirror.path).splitlines()

    def write(path: Path) -> None:
        for each in sorted({os.path.dirname(name) for name in names}):
            (path / each).mkdir(parents=True)
        for name in names:
            descriptor = os.open(path / name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
            os.write(descriptor, b"x" * 400)
            os.close(descriptor)

    return _clones(write, folder)


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _row(what: str, seconds: float, *figures: str) -> None:
    row(f"repositories  {what}", f"{seconds:.2f} s", *figures, ratio=seconds / LIMIT_S, of="to 2 s")


@contextmanager
def _ground() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gastown-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
