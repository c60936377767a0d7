# SPDX-License-Identifier: Apache-2.0
"""The command `mizar`: which commands there are, and what becomes of errors.

The entry point of the package. A command's module is imported when the command is used, so that `mizar get` does not
pay for the daemon's libraries. Exit codes: 0 done, 1 failed, 2 misused, 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from types import ModuleType, TracebackType
from typing import Any

INTERRUPTED = 130

try:
    import typer
    from typer.core import TyperGroup
    from typer.main import get_command

    from mizar.model.errors import MizarError
except KeyboardInterrupt:  # they take a while, and whoever interrupts meanwhile asks for no traceback
    sys.exit(INTERRUPTED)

# Command → "module:attribute", a function or a typer.Typer, in the order of the help.
COMMANDS = {
    "apply": "mizar.cli.objects:apply",
    "diff": "mizar.cli.diff:diff",
    "get": "mizar.cli.objects:get",
    "describe": "mizar.cli.objects:describe",
    "delete": "mizar.cli.objects:delete",
    "endpoint": "mizar.cli.endpoint:app",
    "counters": "mizar.cli.counters:counters",
    "logs": "mizar.cli.logs:logs",
    "top": "mizar.cli.top:top",
    "audit": "mizar.cli.audit:audit",
    "monitor": "mizar.cli.monitor:monitor",
    "trace": "mizar.cli.trace:trace",
    "topology": "mizar.cli.topology:app",
    "lab": "mizar.cli.lab:app",
    "demo": "mizar.cli.demo:demo",
    "doctor": "mizar.cli.doctor:doctor",
    "pipeline": "mizar.cli.pipeline:app",
    "gateway": "mizar.cli.gateway:app",
    "server": "mizar.cli.server:server",
    "daemon": "mizar.cli.daemon:daemon",
    "function": "mizar.cli.function:app",
    "ddos": "mizar.cli.ddos:app",
    "pki": "mizar.cli.pki:app",
    "version": "mizar.cli.version:version",
}


class LazyCommands(TyperGroup):
    """A group whose commands are imported when asked for."""

    def list_commands(self, _ctx: Any) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        """The command of a name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        found = getattr(_imported(module), attribute)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False)
            alone.command()(found)
            found = alone
        command = get_command(found)
        command.name = cmd_name
        return command


def _imported(name: str) -> ModuleType:
    """A module that stays: the collector of garbage need not look through it, while it comes and ever after."""
    if name not in sys.modules:
        gc.disable()
        try:
            import_module(name)
        finally:
            gc.enable()
        gc.freeze()
    return sys.modules[name]


app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Virtual networks for many tenants over any set of Linux hosts, in eBPF.",
)


@app.callback()
def _root() -> None:
    """Virtual networks for many tenants over any set of Linux hosts, in eBPF."""


def main() -> None:
    """Runs the command line and ends the process."""
    sys.excepthook = _unforeseen
    try:
        get_command(app)(prog_name="mizar")
    except MizarError as error:
        from mizar.cli.output import FAILED, report  # a daemon prints nothing

        report(error)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A defect of Mizar: one line, and the traceback for those who ask for it."""
    if os.environ.get("MIZAR_TRACEBACK"):
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"mizar: internal error: {kind.__name__}: {error} (MIZAR_TRACEBACK=1 shows where)", file=sys.stderr)


if __name__ == "__main__":
    main()
