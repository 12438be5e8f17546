"""The command line. Errors go to stderr as what happened and what to do next; the exit code says which kind it was.

0 done, 1 failed, 2 usage, 3 not found, 4 a service is unavailable, 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from gastown.errors import GastownError

if TYPE_CHECKING:
    import typer

# Each has an `app`, whose commands become gastown's. They import what is slow (settings, SQLAlchemy, Celery) where it
# is used, so that `gastown --help` and `gastown status` answer at once.
MODULES = (
    "gastown.cli.stack",
    "gastown.cli.serving",
    "gastown.cli.demo",
    "gastown.cli.sim",
    "gastown.cli.config",
    "gastown.cli.doctor",
    "gastown.cli.runs",
    "gastown.cli.rig",
    "gastown.cli.sling",
    "gastown.cli.bead",
    "gastown.cli.convoy",
    "gastown.cli.diff",
    "gastown.cli.mr",
    "gastown.cli.why",
    "gastown.cli.inbox",
    "gastown.cli.town",
    "gastown.cli.fleet",
    "gastown.cli.logs",
    "gastown.cli.own",
)

INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells have it


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code."""
    debug = "--debug" in arguments
    try:
        code = _dispatch([each for each in arguments if each != "--debug"])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return BROKEN_PIPE
    except Exception as error:
        if debug:
            raise
        return _report(error)


def build() -> "typer.Typer":
    """The application with every command."""
    import typer

    app = typer.Typer(
        name="gastown",
        help="Keeps a fleet of AI coding agents working on git repositories, unattended.",
        epilog="--debug, anywhere, shows the traceback of an error.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)
    for module in MODULES:
        app.add_typer(import_module(module).app)
    return app


def _dispatch(arguments: list[str]) -> int:
    from typer import Abort, TyperException
    from typer.main import get_command

    try:
        code = get_command(build()).main(arguments, prog_name="gastown", standalone_mode=False)
    except Abort:
        return INTERRUPTED
    except SystemExit as error:  # Typer's own way with a closed pipe
        raise BrokenPipeError from error
    except TyperException as error:
        return _complain_of_usage(error)
    return code if isinstance(code, int) else 0


def _report(error: Exception) -> int:
    if isinstance(error, GastownError):
        _complain(str(error), error.hint)
        return error.exit_code
    words = str(error).strip().splitlines()
    _complain(
        f"unexpected {type(error).__name__}" + (f": {words[0]}" if words else ""),
        "the same with --debug shows the traceback",
    )
    return 1


def _complain(what: str, hint: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"gastown: {what}\n" + (f"next: {hint}\n" if hint else ""))


def _complain_of_usage(error: Exception) -> int:
    """What Typer found wrong with the command line, in our words."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error}\n")
        return 2
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    _complain(message[:1].lower() + message[1:].rstrip("."), f"{context.command_path if context else 'gastown'} --help")
    return int(getattr(error, "exit_code", 2))
