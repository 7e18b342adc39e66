"""Writes the reference pages that follow from the code: settings, command line, exit codes, metrics.

python docs/generate.py           write them
python docs/generate.py --check   say which are out of date, and end with 1
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from app.cli.exits import MEANINGS
from app.cli.root import sublet
from app.kit.telemetry import Telemetry
from app.settings.keys import every_key, meanings

REFERENCE = Path(__file__).resolve().parent / "reference"
WIDTH = 100
MADE = "<!-- Made by `make docs` from the code; changes belong there. -->"


def config() -> str:
    """Every key of sublet.toml."""
    lines = [
        "# Settings",
        MADE,
        "",
        "`sublet.toml` is read once, at the start. Unknown keys are errors. `sublet config check` reads it as the service",
        "would, `sublet config explain KEY` tells a key's meaning, its value and where that came from, and",
        "`sublet config schema` prints a JSON Schema for editors.",
        "",
        "- **Order:** a flag wins over the environment, the environment over the file, the file over the default.",
        "- **Environment:** `SUBLET_SECTION__KEY`, for example `SUBLET_SERVER__PORT=9000`. A list of tables is set whole,",
        '  as JSON: `SUBLET_POOL=\'[{"labels": ["gpu"]}]\'`.',
        "- **Secrets** are written as `env:NAME`, `file:PATH` or `cmd:PROGRAM ARGUMENTS`, never in place. A command is split",
        "  into words and not given to a shell. They are read when the service starts.",
        "- **Relative paths** start at the folder of the file.",
        '- **Prices** are text, `"9.50"`, so that they stay exact.',
    ]
    about_tables = meanings()
    for table, keys in groupby(every_key(), key=lambda key: key.table):
        title = f"`{table}`" if table else "At the top"
        about = about_tables.get(table, "")
        lines += [
            "",
            f"## {title}",
            "",
            *([about, ""] if about else []),
            "| key | type | default | meaning |",
            "|---|---|---|---|",
        ]
        for key in keys:
            default = f"`{key.default}`" if key.default not in ("", '""') else ""
            cells = (f"`{key.name.rpartition('.')[2]}`", key.kind, default, key.meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if table == "[[provider]]":
            lines += ["", "Further keys belong to the provider's kind; see [Providers](providers.md)."]
    return "\n".join(lines) + "\n"


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], (*path, name))


def cli() -> str:
    """The help of every command."""
    lines = ["# Command line", MADE, "", "See [exit codes](exit-codes.md) for how commands end.", ""]
    lines += [
        "Data goes to standard output; progress and hints go to standard error. `-o json` prints what the API said,",
        "`-o ndjson` one object a line, `-o csv` a table for spreadsheets. Times are UTC, durations seconds, money a decimal",
        "text with its currency. The service is found by `--server` or `SUBLET_URL`, else by `service.json` in the data",
        "folder; the token by `--token` or `SUBLET_TOKEN`, else by `cli-token` there, which only the account that runs the",
        "service can read.",
    ]
    for path, command in _commands(sublet, ("sublet",)):
        words: dict[str, Any] = {"terminal_width": WIDTH, "max_content_width": WIDTH, **sublet.context_settings}
        with click.Context(command, info_name=" ".join(path), **words) as context:
            text = command.get_help(context)
        lines += ["", f"## `{' '.join(path)}`", "", "```text", *(line.rstrip() for line in text.splitlines()), "```"]
    return "\n".join(lines) + "\n"


def exit_codes() -> str:
    """What each exit code means."""
    lines = [
        "# Exit codes",
        MADE,
        "",
        "The same words stand as `error.code` in JSON.",
        "",
        "| code | word | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| {int(code)} | `{code.name.lower()}` | {meaning} |" for code, meaning in MEANINGS.items()]
    return "\n".join(lines) + "\n"


def _metrics() -> Iterator[tuple[str, str, str, str]]:
    """Name, type, labels and text of each metric; asked of the library's own objects, whose names are not public."""
    for wrapped in vars(Telemetry()).values():
        metric: Any = getattr(wrapped, "_metric", None)
        if metric is None:
            continue
        (told,) = metric.describe()
        labels: tuple[str, ...] = getattr(metric, "_labelnames", ())
        name = f"{told.name}_total" if told.type == "counter" else told.name
        yield name, told.type, ", ".join(f"`{label}`" for label in labels), told.documentation


def metrics() -> str:
    """Every metric of /metrics."""
    lines = [
        "# Metrics",
        MADE,
        "",
        "At `/metrics`, in the text form of Prometheus. Every label value is declared when the service starts, from its",
        "settings; anything else counts as `other`. No label ever holds a job, a lease, a branch or a repository, so the",
        "number of series does not grow with the number of jobs. Durations are seconds. Besides these,",
        "`sublet_process_*` tells of the process. Several processes on one database each tell what the database tells",
        "(leases, jobs, spend): take `max` over them. Requests, deliveries, logins and joins are each process's own: `sum`.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{name}` | {kind} | {labels} | {text} |" for name, kind, labels, text in sorted(_metrics())]
    return "\n".join(lines) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "config.md": config,
    "cli.md": cli,
    "exit-codes.md": exit_codes,
    "metrics.md": metrics,
}


def main(arguments: list[str]) -> int:
    """Exit code: 1 if `--check` found a page that is out of date."""
    old: list[str] = []
    for name, make in PAGES.items():
        path, text = REFERENCE / name, make()
        if path.exists() and path.read_text("utf-8") == text:
            continue
        old.append(name)
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
            print(f"Wrote docs/reference/{name}")
    if "--check" in arguments and old:
        print(f"Out of date: {', '.join(old)}. Run `make docs`.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
