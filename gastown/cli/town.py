"""gastown town: the numbers of the whole town, and how it stands."""

from typing import TYPE_CHECKING, Any

import typer

from gastown.cli.options import AsJson, Policies, Unset

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

app = typer.Typer()
town = typer.Typer(no_args_is_help=True, help="The town: everything that this installation works on.")
app.add_typer(town, name="town")


@town.command("show")
def show_town(as_json: AsJson = False) -> None:
    """Show how the town stands, and the numbers that were set for it and its rigs."""
    from gastown.cli import screen
    from gastown.cli.ask import ask

    shown = ask(_read)
    if as_json:
        return screen.print_json(shown)
    return _print_town(shown)


def _read(session: "Session", town_id: int) -> dict[str, Any]:
    from gastown.models import Town
    from gastown.store import claims, escalations, load, policies, rigs

    now, numbers = claims.clock(session), policies.load_policies(session, town_id)
    row, view = session.get_one(Town, town_id), load.load_town(session, town_id, now, numbers)
    return {
        "name": row.name,
        "created_at": row.created_at,
        "paused_at": row.paused_at,
        "breaker_opened_at": row.breaker_opened_at,
        "breaker_reason": row.breaker_reason,
        "running": view.used,
        "max_running": numbers.town.max_running,
        "spent_usd": view.spent_usd,
        "reserved_usd": view.reserved_usd,
        "budget_usd_per_day": numbers.town.budget_usd_per_day,
        "inbox": escalations.count_open(session, town_id),
        "policy": row.policy,
        "rigs": {rig.name: own for rig, own in rigs.policies_of(session, town_id)},
        "wrong": sorted(numbers.wrong.values()),
    }


def _print_town(shown: dict[str, Any]) -> None:
    from gastown.cli import screen
    from gastown.cli.words import at, in_short, one_line

    screen.say(f"town {shown['name']}" + (f", paused since {at(shown['paused_at'])}" if shown["paused_at"] else ""))
    if shown["breaker_opened_at"]:
        reason = in_short(shown["breaker_reason"] or "", 300)
        screen.say(f"  {'breaker':<8} open since {at(shown['breaker_opened_at'])}: {reason}")
    screen.say(f"  {'running':<8} {shown['running']} of at most {shown['max_running']} attempts")
    if shown["budget_usd_per_day"]:
        spent = f"{shown['spent_usd']:.2f} USD spent in 24 h, {shown['reserved_usd']:.2f} reserved"
        screen.say(f"  {'budget':<8} {spent}, of {shown['budget_usd_per_day']:.2f}")
    for name, own in [
        ("", shown["policy"]),
        *((f"rig {one_line(name)}: ", own) for name, own in shown["rigs"].items()),
    ]:
        for key, value in sorted(own.items()) if isinstance(own, dict) else ():
            screen.say(f"  {'policy':<8} {name}{one_line(key)} = {in_short(str(value), 100)}")
    for fault in shown["wrong"]:
        screen.say(f"  {'WRONG':<8} nothing is started: {in_short(fault, 300)}")
    if shown["inbox"]:
        screen.say(f"  {'inbox':<8} {shown['inbox']} to look at\nnext: gastown inbox")


@town.command("set")
def change_town(policy: Policies = None, unset: Unset = None) -> None:
    """Set numbers of the rules for the whole town; each is in force at the next tick."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import policies
    from gastown.errors import UsageError

    if not policy and not unset:
        raise UsageError("nothing to set", hint="--policy KEY=VALUE; gastown config show lists them all")
    changes = policies.read_assignments(policy or [])
    changed = ask(lambda session, town_id: policies.change_town_policy(session, town_id, changes, unset or []))
    if changed:
        publish_after()
    screen.say(f"the town: {', '.join(changed)}" if changed else "the town: nothing to change")
