"""Certificates and keys in PEM files: what can't be used of them is said in words, with the file."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from .regular_files import open_regular


def check_readable(what: str, path: Path) -> None:
    """Raises ValueError: the file can't be read, and why."""
    try:
        os.close(open_regular(path))  # OpenSSL opens it again, and would wait for a pipe's other end
    except OSError as error:
        raise ValueError(f"{what} {path}: {error.strerror or error}") from None


def load_certificate(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Load a certificate and its private key, PEM files.

    Raises:
        ValueError: one of them can't be read or holds none, the key is encrypted, or it is another's.
    """
    check_readable("certificate", cert)
    check_readable("key", key)

    def refuse() -> str:  # otherwise OpenSSL would ask on the terminal
        raise ValueError(f"key {key} is encrypted: a service has no passphrase")

    try:
        context.load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"key {key} does not belong to certificate {cert}") from None
        raise ValueError(f"certificate {cert} with key {key}: {error.reason or error}") from None
