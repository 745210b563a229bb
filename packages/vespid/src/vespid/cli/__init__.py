"""`vespid …`: one module per command. A module with `register(app)` is found and asked to add its command.

0 done, or stopped as asked · 1 could not start or failed · 2 wrong usage or settings
"""

import importlib
import pkgutil

import typer


def create_app() -> typer.Typer:
    """The command line with every command of this package."""
    app = typer.Typer(name="vespid", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_describe)
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        register = getattr(importlib.import_module(f"{__name__}.{module.name}"), "register", None)
        if register is not None:
            register(app)
    return app


def _describe() -> None:
    """The server side of the Vespid runtime."""


def main() -> None:
    """The console script."""
    create_app()()
