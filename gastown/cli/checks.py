"""What `gastown doctor` looks at. Each check is bounded by itself and says what it found, good or bad."""

import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from gastown import brokers, migrations
from gastown.cli.ask import ask
from gastown.cli.config import masked
from gastown.cli.findings import Finding, Level
from gastown.cli.words import count, size, span
from gastown.db import transaction
from gastown.embedded import control
from gastown.errors import DatabaseUnavailable, GastownError
from gastown.settings import Settings, config_file
from gastown.store import fleet
from gastown.store.claims import clock

SCARCE_BYTES, SCARCER_BYTES = 5 * 1024**3, 512 * 1024**2  # free, in the home: to note, and too little
OLDEST_GIT = (2, 29)  # fetch --no-write-fetch-head
OLDEST_POSTGRES = 15
SKEW_S, GREAT_SKEW_S = 2.0, 60.0  # of this machine's clock against the database's: to note, and too much
ANSWER_S = 3.0
NO_DATABASE = "not known: the database does not answer"


def settings_are_sound(settings: Settings) -> list[Finding]:
    """They were read, so they make sense; nobody else should read what they say."""
    file = config_file()
    source = str(file) if file.is_file() else "no gastown.toml"
    found = [Finding("settings", Level.GOOD, f"read ({source} and GASTOWN_ variables); town {settings.town}")]
    if file.is_file() and file.stat().st_mode & 0o077 and re.search(r"://[^/@\s]*:[^/@\s]+@", file.read_text()):
        what = f"{file} holds a password, and others on this machine can read it"
        found.append(Finding("settings", Level.ODD, what, f"chmod 600 {file}"))
    return found


def home_is_usable(settings: Settings) -> list[Finding]:
    home = settings.home
    above = next(each for each in (home, *home.parents) if each.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        hint = f"chown it to the user that runs Gastown (uid {os.getuid()} asks now), or set GASTOWN_HOME"
        return [Finding("home", Level.BAD, f"{above} cannot be written to", hint)]
    free = shutil.disk_usage(above).free
    inodes = os.statvfs(above)
    what = f"{home}, {size(free)} free"
    if inodes.f_files and inodes.f_favail * 100 < inodes.f_files:
        return [Finding("home", Level.BAD, f"{what}, but hardly an inode", "remove what has very many small files")]
    if free < SCARCE_BYTES:
        level = Level.BAD if free < SCARCER_BYTES else Level.ODD
        return [Finding("home", level, f"{what}: little for worktrees", "make room, or move GASTOWN_HOME")]
    return [Finding("home", Level.GOOD, what)]


def git_is_there() -> list[Finding]:
    oldest = ".".join(map(str, OLDEST_GIT))
    try:
        answer = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except FileNotFoundError:
        return [Finding("git", Level.BAD, "git is not on the PATH", f"install git {oldest} or newer")]
    except subprocess.TimeoutExpired:
        return [Finding("git", Level.BAD, f"git --version does not end in {ANSWER_S:.0f} s", "see which git that is")]
    said = answer.stdout.strip()
    number = re.search(r"(\d+)\.(\d+)", said)
    if number is None or (int(number[1]), int(number[2])) < OLDEST_GIT:
        return [Finding("git", Level.BAD, f"{said or 'git'} is too old", f"install git {oldest} or newer")]
    return [Finding("git", Level.GOOD, said)]


def database_answers(settings: Settings) -> list[Finding]:
    """That it answers, which schema it has, and that its clock and ours agree."""

    def read(session: Session, _town: int) -> tuple[int, datetime]:
        return int(session.scalar(text("SHOW server_version_num")) or 0) // 10_000, clock(session)

    ask(lambda session, _: session.execute(text("SELECT 1")))  # which says best why it is away
    migrations.check()
    before = datetime.now(UTC)
    version, now = ask(read)
    after = datetime.now(UTC)
    place = "embedded" if settings.embedded_database else masked(settings.database)
    found = [Finding("database", Level.GOOD, f"Postgres {version} ({place}), schema {migrations.head()}")]
    if version < OLDEST_POSTGRES:
        hint = f"use Postgres {OLDEST_POSTGRES} or newer"
        found = [Finding("database", Level.BAD, f"Postgres {version} ({place}) is too old", hint)]
    skew = max((now - after).total_seconds(), (before - now).total_seconds(), 0.0)
    what = f"this machine and the database differ by {span(skew)}"
    if skew > SKEW_S:
        level = Level.BAD if skew > GREAT_SKEW_S else Level.ODD
        told = f"{what}: leases go by the database's clock, certificates and file times by this one's"
        return [*found, Finding("clock", level, told, "set both by NTP")]
    return [*found, Finding("clock", Level.GOOD, what)]


def broker_answers() -> list[Finding]:
    from gastown.settings import get_settings
    from gastown.tasks import probing

    settings = get_settings()
    kind = "Redis" if brokers.parse(settings.broker).is_redis else "RabbitMQ"
    place = "embedded" if settings.embedded_broker else masked(settings.broker)
    if settings.embedded_broker and not control.read_status(settings).alive:
        return [Finding("broker", Level.BAD, "the embedded Redis is not running", "gastown up")]
    try:
        took_s = probing.round_trip()
    except GastownError as error:
        return [Finding("broker", Level.BAD, f"{kind} ({place}): {error}", error.hint)]
    return [Finding("broker", Level.GOOD, f"{kind} ({place}): a message and back in {took_s * 1000:.0f} ms")]


def workers_answer(settings: Settings) -> list[Finding]:
    """Somebody has to read each queue, and beat has to run. Two workers of one name fool everybody who counts them."""
    from gastown.celery_app import SHARED_QUEUES, node_queue, watch_queue
    from gastown.tasks import probing

    if settings.embedded_broker and not control.read_status(settings).alive:
        return [Finding("workers", Level.LEFT, "not asked: the embedded Redis is not running")]
    try:
        live = [each.name for each in _nodes() if each.state != "silent"]
    except DatabaseUnavailable:
        live = []
    wanted = {name: [name] for name in SHARED_QUEUES}
    wanted |= {f"{name} of the node": [node_queue(name), watch_queue(name)] for name in live}
    try:
        answers = probing.who_is_there(queue for queues in wanted.values() for queue in queues)
    except GastownError:
        return [Finding("workers", Level.LEFT, "not asked: the broker does not answer")]
    start = "gastown up" if settings.embedded_database else "gastown worker"
    found = [
        Finding("workers", Level.BAD, f"no worker reads the queue {queue}", f"{start}; gastown status says what runs")
        for queues in wanted.values()
        for queue in queues
        if queue not in answers.queues
    ]
    if not found:
        found = [Finding("workers", Level.GOOD, f"{count(len(answers.names), 'worker')}: {', '.join(answers.names)}")]
    for name in answers.doubled:
        hint = "give one of them another GASTOWN_NODE (or --hostname)"
        found.append(Finding("workers", Level.ODD, f"two workers call themselves {name}", hint))
    return [*found, *_beats(answers.beats, settings)]


def _beats(names: Sequence[str], settings: Settings) -> list[Finding]:
    if not names:
        start = "gastown up" if settings.embedded_database else "gastown beat"
        what = "beat does not answer: nothing happens by itself, and nothing that was lost is noticed"
        return [Finding("beat", Level.BAD, what, start)]
    if len(names) > 1:
        what = f"{len(names)} beats run: {', '.join(names)}. That does no harm, and one is enough"
        return [Finding("beat", Level.ODD, what)]
    return [Finding("beat", Level.GOOD, names[0])]


def api_answers(settings: Settings) -> list[Finding]:
    """Agents report to it, so it has to answer where they look for it; from a container: `checks_of_docker`."""
    url = f"{settings.agent_url}/readyz"
    hint = "gastown up" if settings.embedded_database else "gastown api; api.bind and api.agent_url say where it is"
    try:
        request = urllib.request.Request(url)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=ANSWER_S) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        return [Finding("api", Level.BAD, f"{url} answers {error.code} {error.reason}", "see log/api.log")]
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        level = Level.ODD if settings.api.agent_url and settings.runtime == "docker" else Level.BAD
        return [Finding("api", level, f"{url} does not answer from here: {reason}", hint)]
    return [Finding("api", Level.GOOD, f"{settings.agent_url} answers")]


def nodes_are_alive() -> list[Finding]:
    try:
        nodes = _nodes()
    except DatabaseUnavailable:
        return [Finding("nodes", Level.LEFT, NO_DATABASE)]
    if not nodes:
        return [Finding("nodes", Level.BAD, "no worker has ever shown itself", "gastown up, or gastown worker")]
    now = datetime.now(UTC)
    found = []
    for each in nodes:
        seen = span(max(0.0, (now - each.heartbeat_at).total_seconds()))
        what = f"{each.name}: {each.state}, seen {seen} ago, {each.used} of {each.capacity} in use"
        hint = "" if each.state == "alive" else f"gastown node list; for good: gastown node remove {each.name}"
        found.append(Finding("nodes", Level.GOOD if each.state == "alive" else Level.ODD, what, hint))
    if all(each.state == "silent" for each in nodes):
        found = [Finding("nodes", Level.BAD, each.what, "gastown up, or gastown worker there") for each in found]
    return found


def _nodes() -> list[fleet.NodeRow]:
    return ask(fleet.list_nodes)


def programs_are_there(settings: Settings) -> list[Finding]:
    """Of the presets that rigs use, on a node whose agents run right on it. In containers they come by the image."""
    from sqlalchemy import select

    from gastown.models import Rig
    from gastown.presets import load_preset, require_program

    if settings.runtime != "process":
        return [Finding("agents", Level.LEFT, "their programs come with the image")]
    try:
        with transaction() as session:
            rigs = session.scalars(select(Rig).order_by(Rig.name)).all()
            used = [(rig.name, preset, dict(rig.environment)) for rig in rigs for preset in _presets(rig)]
    except DatabaseUnavailable:
        return [Finding("agents", Level.LEFT, NO_DATABASE)]
    found, good = [], set()
    for rig_name, preset, environment in used:
        try:
            require_program(load_preset(preset, settings.home), environment)
            good.add(preset)
        except GastownError as error:
            found.append(Finding("agents", Level.BAD, f"rig {rig_name}: {error}", error.hint))
    if good:
        found.insert(0, Finding("agents", Level.GOOD, f"{', '.join(sorted(good))}: installed"))
    return found or [Finding("agents", Level.GOOD, "no rig names an agent yet", "gastown rig add PATH --gate CMD")]


def _presets(rig: object) -> list[str]:
    names = (getattr(rig, name) for name in ("agent", "review_agent", "rework_agent"))
    return sorted({name for name in names if name})
