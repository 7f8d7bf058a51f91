"""busbar web: a page of the realm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from ..arguments import common_options as n

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

PORT: Final = 8780


@app.command(help="Serve a live page of the realm; whoever opens it signs in as a user of the broker.")
def web(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; default: the loopback address.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = PORT,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            "--origin", help="Where browsers have the page from: https://HOST[:PORT]; may be repeated."
        ),
    ] = None,
    cert: Annotated[Path | None, typer.Option("--cert", help="The page's certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Its private key, PEM.")] = None,
    log_level: n.LogLevel = None,
    log_format: n.LogFormat = None,
) -> None:
    from ..services import logs, run
    from ..services.web import web_spec

    logged = logs.start(log_level, log_format)
    spec = web_spec(host, port, tuple(origin or ()), cert, key, logged.level)
    raise typer.Exit(run.serve(spec))
