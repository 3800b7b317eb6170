"""``efface``: one verb a file. Errors are shown as code, cause and fix, without a traceback."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

VERBS = ("demo", "unlearn", "audit", "bench", "compare", "report", "verify", "list", "show", "check", "new", "doctor")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns (and exits with) 0 done, 1 the user must fix something, 2 the run failed, 3 the audit found
    recoverable knowledge."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = _run(arguments)
    if argv is None:
        sys.exit(code)
    return code


def _run(arguments: list[str]) -> int:
    from click.exceptions import Abort, ClickException, Exit

    from efface.errors import EffaceError

    try:
        return int(_app(arguments)(arguments, standalone_mode=False) or 0)
    except EffaceError as error:
        _show(error.to_json(), f"error [{error.code}]: {error.cause}" + (f"\n  fix: {error.fix}" if error.fix else ""), "--json" in arguments)
        return error.exit_code
    except ClickException as error:
        _show({"error": "cli.usage", "cause": error.format_message(), "fix": "see `efface --help`"},
              f"error [cli.usage]: {error.format_message()}\n  fix: see `efface --help`", "--json" in arguments)
        return 1
    except Exit as error:
        return error.exit_code
    except (Abort, KeyboardInterrupt):
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _app(arguments: list[str]):
    import typer

    app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                      help="Make trained models forget, then try hard to get the memory back.")
    for verb in VERBS:
        module = import_module(f"efface.cli.{verb if verb != 'list' else 'list_'}")
        app.command(verb, help=module.__doc__)(module.command)
    return typer.main.get_command(app)


def _show(data: dict[str, str], text: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(data))
    print(text, file=sys.stderr)
