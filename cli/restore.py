"""busbar restore: see cli.backup."""

from cli.backup import restore_app as app

__all__ = ["app"]
