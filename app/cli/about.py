"""`version` and `completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from app import __version__
from app.cli.options import printing
from app.cli.output import Output


@click.command()
@printing
def version(output: Output) -> None:
    """Print the version of this program."""
    output.only_objects("version")
    if output.is_text:
        click.echo(f"sublet {__version__}")
    else:
        output.value({"schema_version": 1, "version": __version__})


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    For example, in ~/.bashrc: eval "$(sublet completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click knows the three that the argument allows
    click.echo(kind(context.find_root().command, {}, "sublet", "_SUBLET_COMPLETE").source())
