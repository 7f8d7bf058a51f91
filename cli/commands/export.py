"""busbar export: the realm's definitions as a file."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.client.paging import TOO_LARGE
from busbar.bus.errors import BusError
from busbar.bus.routers.definitions import plain, read_all

from ..arguments import common_options as n
from ..arguments.completion import complete_cluster
from ..calls.connect import run
from ..context import global_options, set_global_options
from ..documents.documents import Format, render
from ..errors import usage
from ..printing import output

FORMATS: Final[dict[str, Format]] = {
    "table": "yaml", "wide": "yaml", "yaml": "yaml", "json": "json", "jsonl": "jsonl", "toml": "toml",
}  # fmt: skip

app = n.command_group("Print the realm's definitions as a file.")


def _complete_form(incomplete: str) -> list[str]:
    return [form for form in FORMATS if form.startswith(incomplete)]


@n.subcommand(
    app,
    "export",
    "get_definitions",
    instead="Print the realm's definitions, or those of some clusters, as a file for 'busbar apply -f'.",
)
def export(
    clusters: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names; all clusters, and the principals, without.", autocompletion=complete_cluster
        ),
    ] = None,
    owner: Annotated[
        str | None, typer.Option("--owner", help="The file's name: what pruning goes by.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--output", "-o", help="yaml, toml, json or jsonl.", autocompletion=_complete_form),
    ] = None,
) -> None:
    asked = FORMATS.get(form or output.output_format())
    if asked is None:
        raise usage(
            f"-o {form or output.output_format()}: the formats are table, wide, json, yaml, jsonl and toml; "
            "the first two are yaml here"
        )
    if form != "toml":  # errors are printed in this format too
        set_global_options(global_options().merged({"output": form}))
    found = run(lambda bus: _definitions(bus, clusters or []))
    head = {"busbar": found.pop("busbar", 1), **({"owner": owner} if owner else {})}
    output.show_document(partial(render, {**head, **found}, asked))


async def _definitions(bus: BusClient, clusters: list[str]) -> dict[str, Any]:
    """The document; in parts, each as of its moment, where the broker does not take it as one message."""
    try:
        return await bus.get_definitions(clusters=clusters or None)
    except BusError as error:
        nodes = await bus.fetch_nodes([] if clusters else await bus.list_nodes())
        if (
            error.code != TOO_LARGE
            or len(clusters) == 1
            or any("labels" in (n.left_out or ()) for n in nodes)
        ):
            raise
    people = [] if clusters else await bus.list_principals()
    whole: dict[str, Any] = {
        "busbar": 1,
        "clusters": {},
        "nodes": {row.name: {"labels": row.labels} if row.labels else {} for row in nodes},
        "principals": {row.name: {"role": row.role} for row in people},
    }
    names = clusters or await bus.list_routerclusters(return_names=True)
    for part in (names[: len(names) // 2], names[len(names) // 2 :]):
        found = await _definitions(bus, part) if part else {}
        for section in ("clusters", "nodes"):
            whole[section] |= found.get(section, {})
    return plain(read_all(whole)[0])
