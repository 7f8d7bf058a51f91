"""busbar restore: see cli.commands.backup."""

from .backup import restore_app as app

__all__ = ["app"]
