"""``efface``: one verb a file. Errors are shown as code, cause and fix, without a traceback."""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from typing import Any

from efface.errors import EffaceError, RunFailed

VERBS = (
    "demo",
    "unlearn",
    "audit",
    "bench",
    "tune",
    "select",
    "schedule",
    "corpus",
    "import",
    "compare",
    "report",
    "verify",
    "list",
    "show",
    "check",
    "new",
    "doctor",
)
MODULES = {"list": "list_", "import": "import_"}  # names that Python keeps for itself


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns (and exits with) 0 done, 1 the user must fix something, 2 the run failed, 3 the audit found
    recoverable knowledge."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = _run(arguments)
    if argv is None:
        sys.exit(code)
    return code


def _run(arguments: list[str]) -> int:
    import typer

    # typer brings a click of its own or takes the one installed, depending on its version
    usage = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    as_json = "--json" in arguments
    try:
        return int(_app()(arguments or ["--help"], prog_name="efface", standalone_mode=False) or 0)
    except EffaceError as error:
        return _failed(error, as_json)
    except usage as error:
        return _failed(EffaceError("cli.usage", error.format_message(), "see `efface --help`."), as_json)
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(_from_system(error), as_json)
    except Exception as error:
        traceback.print_exc()
        return _failed(
            RunFailed(
                "efface.defect",
                f"{type(error).__name__}: {error}",
                "this is a defect; please report it with the lines above.",
            ),
            as_json,
        )


def _app() -> Any:
    import typer

    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="Make trained models forget, then try hard to get the memory back.",
    )
    for verb in VERBS:
        module = import_module(f"efface.cli.{MODULES.get(verb, verb)}")
        app.command(verb, help=module.__doc__)(module.command)
    return typer.main.get_command(app)


def _from_system(error: OSError) -> EffaceError:
    """What the operating system refused, as an error with a cause and a fix."""
    from efface.models.cachedir import MOVE_CACHE, is_disk_full

    where = f"{error.filename}: " if error.filename else ""
    if is_disk_full(error):
        return RunFailed("disk.full", f"{where}there is no space left on the disk.", MOVE_CACHE)
    return RunFailed("os.error", f"{where}{error.strerror or error}.", "check the path and who may read or write it.")


def _failed(error: EffaceError, as_json: bool) -> int:
    if as_json:
        print(json.dumps(error.to_json()))
    print(f"error [{error.code}]: {error.cause}" + (f"\n  fix: {error.fix}" if error.fix else ""), file=sys.stderr)
    return error.exit_code
