"""The command line's entry point. Imports typer and nothing heavier: commands are imported when called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .arguments.completion import complete_context
from .context import BROKER_HELP, GlobalOptions, global_options, set_global_options, used_context
from .errors import EXIT_HELP, EXPECTED, CliError, as_object, exit_code, sentence, usage
from .lazy import LazyGroup, command_of, service_of
from .printing import formats, streams
from .typer_fastparse import lighten

ContextOption = Annotated[
    str | None,
    typer.Option("--context", help="Use this context of the config file.", autocompletion=complete_context),
]
BrokerOption = Annotated[str | None, typer.Option("--broker", help=BROKER_HELP)]
RealmOption = Annotated[str | None, typer.Option("--realm", help="Management realm.")]
UserOption = Annotated[str | None, typer.Option("--username", help="User at the broker.")]
PasswordOption = Annotated[
    str | None, typer.Option("--password-file", help="File (mode 0600) with the password.")
]
TlsCaOption = Annotated[str | None, typer.Option("--tls-ca", help="PEM file of trusted CAs.")]
TlsCertOption = Annotated[str | None, typer.Option("--tls-cert", help="PEM file of the client certificate.")]
TlsKeyOption = Annotated[str | None, typer.Option("--tls-key", help="PEM file of its private key.")]


OutputOption = Annotated[
    str | None,
    typer.Option("--output", "-o", help=formats.HELP, autocompletion=formats.complete),
]

HELP = (
    "Run clusters of message routers over MQTT.\n\n"
    "To begin: 'busbar up --agents 3', and in another terminal 'busbar schema example > realm.yaml' and "
    "'busbar apply -f realm.yaml --wait'.\n\n"
    "The options below may stand anywhere on the line. Precedence: options, then the environment variables "
    "BUSBAR_CONTEXT, BUSBAR_BROKER, BUSBAR_REALM, BUSBAR_USERNAME, BUSBAR_PASSWORD_FILE, BUSBAR_PASSWORD, "
    "BUSBAR_TLS_CA, BUSBAR_TLS_CERT, BUSBAR_TLS_KEY, BUSBAR_STATE, BUSBAR_TIMEOUT, BUSBAR_OUTPUT, then a "
    "context of the config file, then a local 'busbar up'.\n\n" + EXIT_HELP
)

app = typer.Typer(
    cls=LazyGroup,
    help=HELP,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def option_template(
    context: ContextOption = None,
    broker: BrokerOption = None,
    realm: RealmOption = None,
    username: UserOption = None,
    password_file: PasswordOption = None,
    output: OutputOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
) -> None:
    """What every command understands."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from busbar.bus.system.version import commit, described, version

        from .printing import output

        output.say(f"busbar {described(version(), commit())}")
        raise typer.Exit


@app.callback()
def _top(
    context: ContextOption = None,
    broker: BrokerOption = None,
    realm: RealmOption = None,
    username: UserOption = None,
    password_file: PasswordOption = None,
    output: OutputOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version with its commit, and exit.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    set_global_options(
        GlobalOptions(context, broker, realm, username, password_file, output, tls_ca, tls_cert, tls_key)
    )


def guard(action: Callable[[], Any], *, has_names: bool = False) -> Any:
    """Run a command; any failure becomes one sentence on stderr and its exit code."""
    try:
        options = global_options()
        form = formats.choose(options.output, os.environ, has_names=has_names)
        set_global_options(options.merged({"output": form}))
        return action()
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise
    except KeyboardInterrupt as error:
        raise typer.Exit(report(error)) from None
    except (CliError, *EXPECTED) as error:
        raise typer.Exit(report(error)) from None
    except RuntimeError as error:
        if "home directory" not in str(error):  # what pathlib says of ~ where nobody knows it
            raise
        raise typer.Exit(report(usage(f"{error} Set HOME, or give a path without ~"))) from None


def report(error: BaseException) -> int:
    """Print an error as the output format asks for; return its exit code."""
    from .printing import output

    where = f" (context '{used_context()}')" if used_context() is not None else ""
    if isinstance(error, KeyboardInterrupt):
        return int(exit_code(error))  # whoever pressed Ctrl-C knows
    told = _told(f"{sentence(error)}{where}", int(exit_code(error)))
    if told is not None:
        return told
    if global_options().output in formats.OBJECTS:
        used = {} if used_context() is None else {"context": used_context()}
        output.note_object({"error": as_object(error) | used})
    else:
        output.note(f"error: {sentence(error)}{where}")
    return int(exit_code(error))


def _told(text: str, code: int) -> int | None:
    """Tell of an error as programs read it that do not read stderr; returns the exit code, or None: not told.

    The log of a service that does not start has it, and a plugin prints it.
    """
    words = sys.argv[1:]
    if command_of(words) == "check":
        from .commands.check import report_unknown

        return report_unknown(text)
    service = service_of(words, LazyGroup)
    if service is None:
        return None
    from .services import logs

    return code if logs.log_refusal(*service, text) else None


def command() -> Any:
    """The whole command line as typer's command object."""
    LazyGroup.guard = staticmethod(guard)
    LazyGroup.refused = staticmethod(lambda error: _told(error.format_message(), error.exit_code))
    LazyGroup.option_template = staticmethod(option_template)
    top = typer.main.get_command(app)
    lighten(top)
    return top


def main() -> None:
    """Run the command line of this process."""
    streams.prepare()
    code: Any = 1
    try:
        command()(prog_name="busbar")
    except SystemExit as end:
        code = end.code
    except OSError as error:  # of help and version, which typer prints before a command is known
        code = report(error)
    sys.exit(streams.finish(code))


if __name__ == "__main__":
    main()
