"""Making a repository a rig: looked at, checked once as its merges will be, then written. All of it or nothing."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from gastown.agent import processes
from gastown.cli import agents, contained, reading, screen
from gastown.cli.ask import ask
from gastown.cli.words import block, one_line, span
from gastown.commands import described, gate_files, towns
from gastown.commands.towns import RIG_NAME, NewRig
from gastown.embedded import home
from gastown.errors import Refused, UsageError
from gastown.gates import Gate, MergeMethod, in_order, of_rig
from gastown.models import Town
from gastown.presets.environment import capture, portable
from gastown.refinery import gates, repository, worktrees
from gastown.refinery.gates import GateResult
from gastown.refinery.repository import Probe
from gastown.runtimes import registry
from gastown.settings import get_settings
from gastown.states import Strategy
from gastown.store import rigs
from gastown.store.members import words
from gastown.store.policies import environment_of

GATES_FILE_BYTES = 256 * 1024
NONE = "none"  # instead of a preset: none any more
TAIL_LINES = 20  # of a red gate's output
# What is before the @ of an http URL is often a token. Elsewhere, as in ssh://git@host, a user alone is no secret.
_LOGIN = re.compile(r"https?://[^/?#]*@|://[^/?#@]*:[^/?#]*@", re.IGNORECASE)


class RedBase(Refused):
    """Set-up or a gate fails on the target as it is."""

    def __init__(self, result: GateResult, branch: str) -> None:
        super().__init__(f"{branch} is red before any work: {result.reason}", hint=_what_helps(result))
        self.result = result


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for. None: nothing was said about it."""

    repository: str
    branch: str | None = None
    name: str | None = None
    agent: str | None = None
    setup: str | None = None
    gates: Sequence[Gate] | None = None
    environment: dict[str, str] | None = field(default=None, repr=False)
    strategy: Strategy | None = None
    merge_method: MergeMethod | None = None
    author: str | None = None  # empty: none
    review_agent: str | None = None  # NONE: none
    rework_agent: str | None = None  # NONE: that of the work
    node_labels: Sequence[str] | None = None
    container: dict[str, Any] = field(default_factory=dict, repr=False)
    allow_red: bool = False


@dataclass(frozen=True, kw_only=True)
class Added:
    name: str
    repository: str
    branch: str
    agent: str | None
    setup: str
    gates: list[Gate]
    checks: list[GateResult]
    dirty: list[str]  # what would keep a merge out of the person's checkout now
    review_agent: str | None
    rework_agent: str | None


def look(wanted: Wanted) -> Probe:
    """Whether the repository can be a rig. Raises UsageError, NotFound or RepositoryUnavailable."""
    if _LOGIN.search(wanted.repository) and repository.local_path(wanted.repository) is None:
        raise UsageError(
            "the URL holds a password, a token or a user, which would be stored and shown",
            hint="leave out what is before the @: git asks its credential helper (git help credentials)",
        )
    return repository.probe(wanted.repository, wanted.branch)


def add(wanted: Wanted, probe: Probe, *, progress: Callable[[str], None]) -> Added:
    """A new rig. Raises Refused when the repository is one already, and RedBase."""
    settings = get_settings()
    home.prepare(settings)
    environment = capture(os.environ)
    agent = wanted.agent
    if agent is not None:
        agents.require_agent(agent, environment, settings.home)
    else:
        installed = agents.installed_agents(environment, settings.home)
        agent = installed[0] if len(installed) == 1 else None
    new = NewRig(
        name=wanted.name or default_name(probe.repository),
        repository=probe.repository,
        branch=probe.branch,
        agent=agent,
        setup=wanted.setup or "",
        gates=wanted.gates or (),
        environment=environment,
        strategy=wanted.strategy or Strategy.DIRECT,
        merge_method=wanted.merge_method or MergeMethod.MERGE,
        author=wanted.author or None,
        review_agent=_reader(wanted.review_agent, environment),
        rework_agent=_reader(wanted.rework_agent, environment),
        node_labels=towns.sound_labels(wanted.node_labels or ()),
        container=contained.changed({}, wanted.container),
    )
    ask(lambda session, town_id: _require_new(session, town_id, new))
    with checked(new, allow_red=wanted.allow_red, progress=progress) as (checks, mirror):
        rig_id = ask(lambda session, town_id: _insert(session, town_id, new))
        _keep_mirror(mirror, rig_id)
    direct = new.strategy == Strategy.DIRECT  # else nothing of Gastown's comes into the checkout
    dirty = repository.dirty_paths(new.repository, new.branch) if direct else []
    shown = {key: getattr(new, key) for key in ("name", "repository", "branch", "agent", "setup")}
    shown |= {"review_agent": new.review_agent, "rework_agent": new.rework_agent}
    return Added(**shown, gates=in_order(new.gates), checks=checks, dirty=dirty)


def _reader(name: str | None, environment: Mapping[str, str]) -> str | None:
    """A preset whose agents read what they are told, and whose program is there. Raises NotFound or UsageError."""
    if name is None or name == NONE:
        return None
    preset = agents.require_agent(name, environment, get_settings().home)
    if preset.runs_scripts:
        what = f"the agent {name} runs what it is told as a script, so it can read no work of others"
        raise UsageError(what, hint="name an agent that reads its prompt")
    return name


def given_gates(file: str | None, commands: Sequence[str] | None) -> list[Gate] | None:
    """The gates that options name; None: they name none. Raises UsageError and NotFound."""
    if file is None and not commands:
        return None
    text = "" if file is None else reading.read_text(file, GATES_FILE_BYTES)
    return gate_files.gates_of("standard input" if file == "-" else file, text, commands or ())


def strategy_of(text: str | None) -> Strategy | None:
    """What `--merge` names. Raises UsageError."""
    if text == "pr":
        branch = "--merge branch: open pull requests from the branches that it pushes; their merge is noticed"
        raise UsageError("gastown opens no pull requests yet", hint=branch)
    if text is not None and text not in set(Strategy):
        raise UsageError(f"nothing is merged {text[:40]!r}", hint=f"--merge {' or --merge '.join(Strategy)}")
    return None if text is None else Strategy(text)


def default_name(place: str) -> str:
    """The last part of a path or URL, in letters that a rig's name may have."""
    last = place.rstrip("/").replace(":", "/").rpartition("/")[2].removesuffix(".git")
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in last)
    return kept.strip("._-")[:64] or "rig"


def _require_new(session: Session, town_id: int, new: NewRig) -> None:
    towns.check_author(new.author)
    taken = rigs.rig_of(session, town_id, new.repository, new.branch)
    if taken is not None:
        what = f"{new.repository} ({new.branch}) is a rig already: {taken}"
        raise Refused(what, hint=f'gastown sling "what is to be done" --rig {taken}')
    if not RIG_NAME.fullmatch(new.name) or rigs.list_rigs(session, town_id, new.name):
        towns.add_rig(session, town_id, new)  # says what is wrong with the name


def _insert(session: Session, town_id: int, new: NewRig) -> int:
    session.get_one(Town, town_id, with_for_update=True)  # two at once: the second one sees the first
    _require_new(session, town_id, new)
    return towns.add_rig(session, town_id, new).id


@contextlib.contextmanager
def checked(
    new: NewRig, *, allow_red: bool, progress: Callable[[str], None]
) -> Iterator[tuple[list[GateResult], Path]]:
    """Set-up and gates run on the target; their results, and the mirror that was made for it. Raises RedBase."""
    settings = get_settings()
    folder = settings.home / "checks"
    folder.mkdir(mode=0o700, exist_ok=True)
    _remove_leftovers(folder)
    scratch = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=folder))
    try:
        results = gates.check_base(
            home=scratch,
            rig_id=0,
            repository=new.repository,
            branch=new.branch,
            setup=new.setup,
            gates=in_order(new.gates),
            environment=portable(new.environment) if settings.runtime == "docker" else new.environment,
            runtime=registry.get(settings.runtime),
            container=described.container(new.agent, new.container),
            on_step=progress,
        )
        red = next((result for result in results if not result.passed), None)
        if red is not None and not allow_red:
            raise RedBase(red, new.branch)
        yield results, scratch / "mirrors" / "0.git"
    finally:
        worktrees.remove(scratch)


def _keep_mirror(made: Path, rig_id: int) -> None:
    """The first attempt need not fetch again. A mirror that is there already stays."""
    place = get_settings().home / "mirrors" / f"{rig_id}.git"
    place.parent.mkdir(mode=0o700, exist_ok=True)
    if not place.exists():
        made.rename(place)


def _remove_leftovers(folder: Path) -> None:
    """What checks left that were killed."""
    for entry in folder.iterdir():
        pid = entry.name.partition("-")[0]
        if pid.isdigit() and processes.look(int(pid)) is None:
            worktrees.remove(entry)


def given_changes(name: str, wanted: Wanted, *, progress: Callable[[str], None]) -> list[str]:
    """Have a rig take what is given now, after a check of set-up and gates; the names of what changed."""
    rig = ask(lambda session, town_id: towns.get_rig(session, town_id, name))
    environment = environment_of(rig) if wanted.environment is None else wanted.environment
    now = NewRig(
        name=rig.name,
        repository=rig.repository,
        branch=rig.branch,
        agent=rig.agent,
        setup=rig.setup,
        gates=of_rig(rig.gates),
        environment=environment_of(rig) if wanted.environment is None else {},
        strategy=rig.strategy,
        merge_method=rig.merge_method,
        author=rig.author,
        review_agent=rig.review_agent,
        rework_agent=rig.rework_agent,
        node_labels=list(words(rig.node_labels)),
        container=rig.container,  # as it is: `rig set` changes it by itself
    )
    new = replace(
        now,
        agent=now.agent if wanted.agent is None else wanted.agent,
        setup=now.setup if wanted.setup is None else wanted.setup,
        gates=now.gates if wanted.gates is None else tuple(wanted.gates),
        environment=environment,
        strategy=wanted.strategy or now.strategy,
        merge_method=wanted.merge_method or now.merge_method,
        author=now.author if wanted.author is None else wanted.author or None,
        review_agent=now.review_agent if wanted.review_agent is None else _reader(wanted.review_agent, environment),
        rework_agent=now.rework_agent if wanted.rework_agent is None else _reader(wanted.rework_agent, environment),
    )
    towns.check_author(new.author)
    given = {key: value for key, value in vars(new).items() if value != getattr(now, key)}
    if not given:
        return []
    if new.agent is not None:
        agents.require_agent(new.agent, new.environment, get_settings().home)
    home.prepare(get_settings())
    with contextlib.ExitStack() as stack:
        if given.keys() & {"setup", "gates", "environment"}:
            stack.enter_context(checked(new, allow_red=wanted.allow_red, progress=progress))
        return ask(lambda session, town_id: towns.update_rig(session, towns.get_rig(session, town_id, name), **given))


def show_red(error: RedBase) -> None:
    """The end of what the red command printed."""
    lines = block(error.result.printed()).split("\n")
    for line in lines[-TAIL_LINES:]:
        screen.note(f"  | {line}")


def show_added(added: Added, *, say: Callable[[str], None] = screen.say) -> None:
    say(f"rig {added.name} added: {one_line(added.repository)} ({added.branch})")
    for result in added.checks:
        outcome = f"passed in {span(result.duration_s)}" if result.passed else f"RED, allowed: {result.reason}"
        flaky = f", at try {len(result.failed) + 1} of {result.allowed}" if result.passed and result.failed else ""
        name = result.command if result.step == "setup" else result.name
        say(f"  {result.step:<6} {one_line(name, 60)}: {outcome}{flaky}")
    say(f"  agent  {added.agent or 'none: each sling has to name one with --agent'}")
    if added.rework_agent:
        say(f"  rework {added.rework_agent} mends what holds a merge")
    if added.review_agent:
        say(f"  review {added.review_agent} has to approve each result")
    if not added.gates:
        screen.note("warning: no gate, so whatever an agent commits is merged unchecked; --gate CMD checks it")
    if added.dirty:
        some = ", ".join(one_line(path) for path in added.dirty[:3])
        screen.note(f"warning: changes in your checkout ({some}) hold merges until they are committed or stashed")
    if get_settings().runtime == "process":
        screen.note("note: agents run as you on this machine, and nothing isolates them: they can do what you can.")


def _what_helps(result: GateResult) -> str:
    if result.not_found:
        return f"install what it needs, or correct the command: --{result.step} CMD"
    return "mend the branch, or correct the command; --allow-red adds it all the same"
