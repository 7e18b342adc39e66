"""`sublet`: all commands, and how the program ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from app.cli.about import completion, version
from app.cli.backup import backup, restore
from app.cli.config import config
from app.cli.demo import demo
from app.cli.doctor import doctor
from app.cli.exits import Exit, Failure
from app.cli.explain import explain
from app.cli.image import image
from app.cli.keys import keys
from app.cli.lease import lease, ps
from app.cli.login import login
from app.cli.offers import offers
from app.cli.people import people
from app.cli.provider import provider
from app.cli.queue import queue
from app.cli.sweep import sweep
from app.cli.token import token
from app.cli.up import up


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def sublet() -> None:
    """Rents one machine for one queued CI job, and gives it back.

    Wherever a LEASE is asked for, its name, the beginning of its id, or the address of its job will do.
    """


COMMANDS = (
    *(up, demo, ps, lease, queue, explain, offers, provider, doctor, sweep, image, config, login),
    *(people, token, keys, backup, restore, version, completion),
)
for command in COMMANDS:
    sublet.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned, not raised."""
    try:
        result = sublet.main(arguments, prog_name="sublet", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit if isinstance(error, Failure) else error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return Exit.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    return result if isinstance(result, int) else Exit.OK
