"""busbar schema: an example of a file of definitions, and the JSON Schemas, for editors."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import typer
from busbar.bus.routers.transport_schema import runtime_schema

from ..arguments import common_options as n
from ..printing import output

EXAMPLE: Final = """\
# yaml-language-server: $schema=./busbar.schema.json
busbar: 1
owner: example  # the name of this file: 'busbar apply --prune' deletes only what it has created
clusters:
  edge:
    running: true  # false stops it; left out, it stays as it is
    nodes:  # 'busbar node list' shows those that there are
      n1:
      n2:
      n3: {hardlimit: 4}  # at most so many of this cluster's workers there
    groups:
      web:
        runtime: nats  # or amqtt, mosquitto, crossbar, or one of the nodes' own
        scale: 3  # workers, placed on the nodes
        mesh: true  # they are told of each other and act as one router
        transport: {type: mqtt, endpoint: {type: tcp, port: 24000-24099}}
"""

app = n.command_group(
    "Print an example of a file of definitions, or the JSON Schema of a definition, for editors."
)


@app.callback()
def _group() -> None:
    """Without it a group of one command would be that command."""


@app.command(
    "file",
    help="Print the JSON Schema of a file of definitions, as 'busbar export' writes it. Saved as "
    "busbar.schema.json beside such a file, editors find it by the line at the file's top.",
)
def file() -> None:
    from busbar.bus.routers.definitions import document_schema

    output.dump(document_schema())


@app.command(
    "example",
    help="Print an example of a file for 'busbar apply': three nats-server as one router.",
)
def example() -> None:
    if output.output_format() != "table":
        import yaml  # type: ignore[import-untyped]

        return output.dump(yaml.safe_load(EXAMPLE))
    for text in EXAMPLE.splitlines():
        output.say(text)
    return None


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
