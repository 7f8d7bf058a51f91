"""busbar schema: the JSON Schemas of definitions, for editors."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from busbar.bus.transport_schema import runtime_schema

from .. import common_options as n
from .. import output

app = n.command_group("Print the JSON Schema of a definition, for editors.")


@app.callback()
def _group() -> None:
    """Without it a group of one command would be that command."""


@app.command(
    "file",
    help="Print the JSON Schema of a file of definitions, as 'busbar export' writes it. Saved as "
    "busbar.schema.json beside such a file, editors find it by the line at the file's top.",
)
def file() -> None:
    from busbar.bus.definitions import document_schema

    output.dump(document_schema())


@app.command(
    "transport",
    help="Print the JSON Schema of a transport as this version's runtime has it. Nodes of another version, "
    "and operator-defined runtimes, have their own. Nothing is asked of the manager.",
)
def transport(
    runtime: Annotated[
        Literal["amqtt", "crossbar", "mosquitto", "nats"],
        typer.Option("--runtime", help="amqtt, crossbar, mosquitto or nats."),
    ],
) -> None:
    output.dump(runtime_schema(runtime))
