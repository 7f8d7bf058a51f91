"""busbar call: any operation with raw parameters."""

from __future__ import annotations

from typing import Annotated

import typer

from ..arguments import common_options as n
from ..arguments.completion import complete_operation
from ..calls.connect import run
from ..context import global_options, set_global_options
from ..documents.definition import read_object
from ..printing import output

app = n.command_group("Call any operation of the contract with JSON parameters.")


@app.command(help="Call any operation of the contract with JSON parameters; the result is JSON.")
def call(
    operation: Annotated[str, typer.Argument(autocompletion=complete_operation)],
    params: Annotated[str, typer.Argument(help="A JSON object, a JSON or YAML file, or - for stdin.")] = "{}",
    expect_version: n.Expect = None,
) -> None:
    given = read_object(params, "PARAMS")
    if output.output_format() == "table":
        set_global_options(global_options().merged({"output": "json"}))
    output.dump(run(lambda bus: bus.call(operation, given, expect_version=expect_version)))
