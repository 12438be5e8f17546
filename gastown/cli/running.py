"""One run: the stack is there, the rig is there, the beads are slung in one transaction, then watched to their end."""

import fcntl
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import FrameType

from sqlalchemy.orm import Session

from gastown.cli import INTERRUPTED, adding, board, planning, screen, slinging
from gastown.cli.adding import Wanted
from gastown.cli.ask import ask, publish_after
from gastown.cli.why import state_now
from gastown.cli.words import count, in_short, one_line, span
from gastown.commands import plans, towns
from gastown.commands.plan_formats import PlanFormat
from gastown.commands.plans import RUN_LABEL, Plan, PlannedBead
from gastown.embedded import control, home
from gastown.embedded.status import StackState
from gastown.errors import DatabaseUnavailable, NotFound, StackUnavailable
from gastown.models import Rig
from gastown.presets import Preset
from gastown.presets.environment import capture
from gastown.refinery.repository import Probe
from gastown.settings import Settings, get_settings
from gastown.states import RELEASING
from gastown.store import claims, explain, listing, load, rigs
from gastown.store.beads import ID_LENGTH, ID_LETTERS
from gastown.store.listing import BeadRow

TITLE_CHARACTERS = 120  # of a task whose text is longer


@dataclass(frozen=True, kw_only=True)
class Order:
    """What was typed."""

    tasks: tuple[str, ...]
    plan: str | None
    plan_format: PlanFormat | None = None
    resume: str | None
    wanted: Wanted
    as_json: bool


@dataclass(frozen=True)
class Run:
    id: str
    bead_ids: list[str]


def carry_out(order: Order) -> int:
    """The exit code: 0 when all is merged, 1 when some need a person, 130 after Ctrl-C."""
    plan = None if order.resume else plan_of(order)
    probe = adding.look(order.wanted) if plan and any(bead.rig is None for bead in plan.bead) else None
    if plan is not None:
        _check_named_agents(order, plan)
    settings, run, ours, users = get_settings(), None, False, None
    try:
        with signals_interrupt():
            ours = bring_up(settings)
            users = _hold_stack(settings)
            run = resumed(order.resume) if plan is None else begin(order, plan, probe, ours)
            rows = board.watch(run.id, run.bead_ids, quiet=order.as_json)
            outcome = conclude(run, rows, order)
    except KeyboardInterrupt:
        outcome = INTERRUPTED
    finally:
        if ours:
            take_down(settings, users)
    if outcome == INTERRUPTED:
        say_how_to_go_on(run, order.resume, ours)
    return outcome


def plan_of(order: Order) -> Plan:
    """Raises UsageError for all that is wrong with the plan or the tasks."""
    if order.plan is not None:
        return planning.read_plan(order.plan, order.plan_format)
    beads = [_task(number, text) for number, text in enumerate(order.tasks, 1)]
    return plans.check_plan(Plan(bead=beads), "the command line")


def _task(number: int, text: str) -> PlannedBead:
    title = one_line(text, TITLE_CHARACTERS)
    return PlannedBead(id=f"task {number}", title=title, body="" if title == text.strip() else text)


def _check_named_agents(order: Order, plan: Plan) -> None:
    """Before anything is started: a misspelt agent is the commonest mistake."""
    for name in sorted({bead.agent or order.wanted.agent for bead in plan.bead} - {None}, key=str):
        slinging.choose_agent(name, capture(os.environ))


def bring_up(settings: Settings) -> bool:
    """Have a town that works. True: this run started the stack."""
    if _is_served(settings):
        return False
    was_down = control.read_status(settings).state is StackState.DOWN
    try:
        with screen.progress() as progress:
            progress("starting Postgres, Redis, workers and API")
            return control.start_detached(settings)
    except KeyboardInterrupt:
        if was_down:
            take_down(settings)
        raise


def _is_served(settings: Settings) -> bool:
    """The stack of this home is up, or the database is elsewhere and others work on it."""
    if control.is_up(settings):
        return True
    if settings.embedded_database:
        return False
    try:
        return not ask(lambda session, town_id: load.load_town(session, town_id, claims.clock(session)).down)
    except DatabaseUnavailable:
        return False


def _hold_stack(settings: Settings) -> int | None:
    """While this descriptor is open, no other run takes the stack down. It closes with the process."""
    home.prepare(settings)
    descriptor = os.open(settings.home / "run" / "runs.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _others_use_it(users: int | None) -> bool:
    if users is None:
        return False
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def take_down(settings: Settings, users: int | None = None) -> None:
    """Stop what this run started, unless another run works with it. Agents that still work save what they have."""
    if _others_use_it(users):
        screen.note("another run uses the stack, so it stays up\nnext: gastown down, when that one is through")
        return
    try:
        with screen.progress() as progress:
            progress("stopping what this run started; agents save their work")
            control.stop(settings)
    except KeyboardInterrupt:
        screen.note("the stack goes on stopping by itself (gastown status)")
    except StackUnavailable as error:
        screen.note(f"warning: {error}\nnext: {error.hint}")


def begin(order: Order, plan: Plan, probe: Probe | None, ours: bool) -> Run:
    """The rig, and the beads in one transaction: all of them or none. `ours`: the stack ends with this run."""
    named = sorted({bead.rig for bead in plan.bead if bead.rig is not None})
    known = ask(lambda session, town_id: {each: towns.get_rig(session, town_id, each) for each in named})
    own = None if probe is None else _own_rig(probe)
    presets = {bead.id: _agent_of(bead, order, known.get(bead.rig or "", own)) for bead in plan.bead}
    plan = _with_scripts(order, plan, presets)
    name = None if probe is None else _ready_rig(order, probe, own)
    run_id = "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))

    def sling(session: Session, town_id: int) -> list[str]:
        by_name: dict[str | None, Rig] = {each: towns.get_rig(session, town_id, each) for each in named}
        if name is not None:
            by_name[None] = towns.get_rig(session, town_id, name)
        chosen = {key: preset.name for key, preset in presets.items()}
        return plans.sling_plan(session, town_id, plan, by_name, chosen, RUN_LABEL + run_id)

    bead_ids = ask(sling)
    publish_after()
    ends = "stops it with the work saved;" if ours else "detaches,"
    screen.note(f"run {run_id}: {count(len(bead_ids), 'bead')}; Ctrl-C {ends} gastown run --resume {run_id} goes on")
    return Run(run_id, bead_ids)


def resumed(run_id: str | None) -> Run:
    """An earlier run. Raises NotFound."""
    name = (run_id or "").removeprefix(RUN_LABEL)
    bead_ids = ask(lambda session, town_id: listing.beads_with_label(session, town_id, RUN_LABEL + name))
    if not bead_ids:
        raise NotFound("run", one_line(name), hint="gastown bead list --all")
    publish_after()
    return Run(name, bead_ids)


def _own_rig(probe: Probe) -> Rig | None:
    def read(session: Session, town_id: int) -> Rig | None:
        name = rigs.rig_of(session, town_id, probe.repository, probe.branch)
        return None if name is None else towns.get_rig(session, town_id, name)

    return ask(read)


def _agent_of(bead: PlannedBead, order: Order, rig: Rig | None) -> Preset:
    name = bead.agent or order.wanted.agent
    return slinging.choose_agent(name, capture(os.environ)) if rig is None else slinging.pick_agent(rig, name)


def _with_scripts(order: Order, plan: Plan, presets: dict[str, Preset]) -> Plan:
    """A task for an agent that runs scripts is the script."""
    beads = []
    for bead in plan.bead:
        if order.plan is None and not bead.body and presets[bead.id].runs_scripts:
            bead = bead.model_copy(update={"body": bead.title})
        slinging.require_script(presets[bead.id], bead.title, bead.body)
        beads.append(bead)
    return plan.model_copy(update={"bead": beads})


def _ready_rig(order: Order, probe: Probe, own: Rig | None) -> str:
    """The name of the rig of this repository, made if there is none, with the setup and gates that are given now."""
    try:
        with screen.progress() as progress:
            if own is None:
                added = adding.add(order.wanted, probe, progress=progress)
            else:
                wanted = replace(order.wanted, agent=None)  # the agent is for the beads of this run
                changed = adding.given_changes(own.name, wanted, progress=progress)
    except adding.RedBase as error:
        adding.show_red(error)
        raise
    if own is None:
        adding.show_added(added, say=screen.note)
        return added.name
    if changed:
        screen.note(f"rig {own.name}: {', '.join(changed)} changed, from now on for every bead of it")
    return own.name


def conclude(run: Run, rows: list[BeadRow], order: Order) -> int:
    """Say how it ended: each bead that needs a person, with the reason and the next command.

    How a review or a rework ended does not count: the bead whose merge it was made for says whether anything is left.
    """
    rows = [row for row in rows if row.purpose is None or not row.terminal]
    done = [row for row in rows if row.resolution in RELEASING]
    stuck = [row.id for row in rows if row not in done]
    reasons = ask(lambda session, town_id: explain.explain(session, town_id, stuck)) if stuck else []
    if order.as_json:
        screen.print_json(
            {"run": run.id, "ok": not stuck, "beads": rows, "reasons": [asdict(each) for each in reasons]}
        )
        return 1 if stuck else 0
    listed = {row.id: row for row in rows}
    for each in reasons:
        screen.say(f"{each.id} {state_now(each, listed[each.id]).replace('_', ' ')}: {one_line(each.title, 60)}")
        screen.say(f"  {in_short(each.reason, 300)}\n  {each.opens}\n  next: {each.command}")
    took = max(row.closed_at for row in rows if row.closed_at) - min(row.created_at for row in rows) if done else None
    time = "" if took is None or stuck else f" in {span(took.total_seconds())}"
    screen.say(f"{len(done)} of {count(len(rows), 'bead')} done{time}")
    if stuck:
        screen.say(f"next: after that, gastown run --resume {run.id}")
    return 1 if stuck else 0


def say_how_to_go_on(run: Run | None, resume: str | None, ours: bool) -> None:
    if run is None and resume is None:
        screen.note("stopped before any bead was made")
        return
    if run is None:
        name = one_line((resume or "").removeprefix(RUN_LABEL))
        screen.note(f"stopped before run {name} went on; its beads are kept\nnext: gastown run --resume {name}")
        return
    said = "stopped run {}: what is done is kept, the rest waits"
    said = said if ours else "detached from run {}: the beads go on without this terminal"
    screen.note(f"{said.format(run.id)}\nnext: gastown run --resume {run.id}")


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal end a run as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
