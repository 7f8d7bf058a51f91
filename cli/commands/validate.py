"""busbar validate: what is wrong with a file of definitions, without a manager."""

from __future__ import annotations

from typing import Annotated

import typer

from ..arguments import common_options as n
from ..errors import ExitCode
from ..printing import output

app = n.command_group("Check a file of definitions without a manager.")
File = Annotated[
    str,
    typer.Option(
        "--file",
        "-f",
        help="YAML, TOML or JSON by its ending; - for YAML on stdin. 'busbar schema example' prints one.",
    ),
]


@n.subcommand(
    app,
    "validate",
    more="Check a file of definitions: its members, and what this version's runtimes understand. Nothing is "
    "asked of the manager, which also knows nodes, room and rights: see 'busbar diff'.",
)
def validate(file: File) -> None:
    from busbar.bus.routers.definitions import pointers, read_all

    from ..documents.documents import located, read_document

    document = read_document(file)
    found, errors = read_all(document.value, by_table=True)
    if errors and output.output_format() == "table":
        for error in errors:
            output.note(f"error: {located(document, error)}")
    elif errors:
        output.dump({"valid": False, "errors": [error.to_wire() for error in errors]})
    if errors:
        raise typer.Exit(ExitCode.USAGE)
    count = len(list(pointers(found)))
    output.done({"valid": True, "errors": [], "objects": count}, f"{document.name} is valid: {count} objects")
