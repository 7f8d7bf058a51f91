"""busbar call: any operation with raw parameters."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import common_options as n
from .. import output
from ..connect import Session, run
from ..context import given, set_given
from ..definition import read_object

app = n.noun("Call any operation of the contract with JSON parameters.")


def _operations(incomplete: str) -> list[str]:
    from busbar.bus.contract import OPERATIONS

    return [name for name in OPERATIONS if name.startswith(incomplete)]


@app.command(help="Call any operation of the contract with JSON parameters; the result is JSON.")
def call(
    operation: Annotated[str, typer.Argument(autocompletion=_operations)],
    params: Annotated[str, typer.Argument(help="A JSON object, a JSON or YAML file, or - for stdin.")] = "{}",
    expect_version: n.Expect = None,
) -> None:
    async def work(s: Session) -> Any:
        return await s.call(operation, expect_version=expect_version, **read_object(params, "PARAMS"))

    if given().output in (None, "table"):
        set_given(given().merged({"output": "json"}))
    output.dump(run(work))
