"""The typer application: the table of commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.core

import clipguide
from clipguide.cli.ask import ask
from clipguide.cli.bench import app as benches
from clipguide.cli.caption import caption
from clipguide.cli.classify import classify
from clipguide.cli.demo import demo
from clipguide.cli.doctor import doctor
from clipguide.cli.eval import app as evaluations
from clipguide.cli.filter import filter
from clipguide.cli.generate import generate
from clipguide.cli.index import index
from clipguide.cli.info import info
from clipguide.cli.match import match
from clipguide.cli.plot import plot
from clipguide.cli.push import push
from clipguide.cli.reproduce import reproduce
from clipguide.cli.rerank import rerank
from clipguide.cli.score import score
from clipguide.cli.search import search
from clipguide.cli.segment import segment
from clipguide.cli.train import train
from clipguide.cli.verify import verify
from clipguide.cli.view import view
from clipguide.cli.web import web


class Interrupted(Exception):
    """Ctrl-C inside a command; its argument, if any, says what is kept."""


class _Commands(typer.core.TyperGroup):
    """typer, which would turn an interruption into an exit code without a message."""

    def invoke(self, ctx: Any) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(*error.args) from error


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,  # plain text: rich would double the time of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    generate, rerank, score, classify, match, caption, ask, segment, filter, plot, index, search,
    train, info, reproduce, demo, doctor, verify, view, web, push,
)  # fmt: skip
for command in COMMANDS:
    app.command(command.__name__)(command)
app.add_typer(evaluations, name="eval")
app.add_typer(benches, name="bench")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (anywhere).")] = False,
) -> None:
    """Any diffusers pipeline, made to follow its prompt better by CLIP.

    Data goes to stdout (JSON with --json), progress and warnings to stderr.
    """
    if version:
        typer.echo(f"clipguide {clipguide.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
