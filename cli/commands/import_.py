"""busbar import: the configuration of an existing router, printed as a definition of Busbar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..arguments import common_options as n
from ..documents import definition
from ..errors import ExitCode, usage
from ..importers.crossbar import import_crossbar
from ..importers.definition import NotImportedError
from ..importers.mosquitto import import_mosquitto
from ..printing import output

app = n.command_group("Print an existing router's configuration as a definition.")


@app.command(
    "import",
    help="Print the transport of a Crossbar.io config.json (or .yaml) or a mosquitto.conf, with all its "
    "listeners. What can't be taken over is told on stderr, with the files to make on the nodes; the exit "
    "code is then 1. Nothing is sent anywhere.",
)
def import_(
    file: Annotated[Path, typer.Argument(help="The router's configuration.", show_default=False)],
    kind: Annotated[
        Literal["crossbar", "mosquitto"] | None,
        typer.Option("--kind", help="crossbar or mosquitto; without it by the file's name."),
    ] = None,
) -> None:
    structured = file.suffix in (".json", ".yaml", ".yml")
    try:
        if (kind or ("crossbar" if structured else "mosquitto")) == "crossbar":
            found = import_crossbar(definition.read_object(str(file), "FILE"))
        else:
            found = import_mosquitto(file.read_text(encoding="utf-8"))
    except NotImportedError as error:
        raise usage(f"FILE {file}: {error}") from None
    except (OSError, ValueError) as error:
        raise usage(f"FILE {file}: {getattr(error, 'strerror', None) or error}") from None
    output.dump(found.transport)
    for text in found.files:
        output.note(f"needed: {text}")
    for where, why in found.left:
        output.note(f"left out: {where}: {why}")
    if found.left:
        raise typer.Exit(ExitCode.FAILED)
