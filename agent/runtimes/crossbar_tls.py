"""Renders TLS of an endpoint to Crossbar.io's configuration. Pure except what `secrets.read` does."""

from __future__ import annotations

import re
from typing import Final

from .base import RuntimeConfigError
from .transport import TlsFiles
from .wamp import Rendered, Secrets

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]{1,65536}-----END CERTIFICATE-----"
)


def tls_of(
    tls: TlsFiles, secrets: Secrets, folder: str, below: str = "tls"
) -> tuple[Rendered, dict[str, str]]:
    """The `tls` of a listener, and the files in `below` of `folder` in the worker's own that it names.

    Crossbar reads one certificate of each file: bundles are split. The key stays where it is.

    Raises:
        RuntimeConfigError: a file can't be read or is not what it should be, or Crossbar could not do this.
    """
    if tls.client_certificates == "optional":
        detail = "Crossbar asks all clients for a certificate ('require') or none"
        raise RuntimeConfigError(f"{tls.at}/client_certificates", detail)
    _check_key(secrets.at(tls.key, f"{tls.at}/key"), tls.at)
    own, *chain = _certificates(secrets, tls, "certificate")
    chain += _certificates(secrets, tls, "chain") if tls.chain else []
    trusted = _certificates(secrets, tls, "client_ca") if tls.client_ca else []
    files = {f"{below}/certificate.pem": own}
    files |= {f"{below}/chain{index}.pem": each for index, each in enumerate(chain)}
    files |= {f"{below}/ca{index}.pem": each for index, each in enumerate(trusted)}
    rendered: Rendered = {"key": str(tls.key), "certificate": f"{below}/certificate.pem"}
    if chain:
        rendered["chain_certificates"] = [f"{below}/chain{index}.pem" for index in range(len(chain))]
    if trusted:
        rendered["ca_certificates"] = [f"{below}/ca{index}.pem" for index in range(len(trusted))]
    return rendered, {f"{folder}/{name}": content for name, content in files.items()}


def _certificates(secrets: Secrets, tls: TlsFiles, member: str) -> list[str]:
    pointer = f"{tls.at}/{member}"
    found = _CERTIFICATE.findall(secrets.at(getattr(tls, member), pointer))
    if not found:
        raise RuntimeConfigError(pointer, "this node's file holds no certificate in PEM form")
    return [each.decode("ascii") + "\n" for each in found]


def _check_key(content: bytes, at: str) -> None:
    if b"PRIVATE KEY-----" not in content:
        raise RuntimeConfigError(f"{at}/key", "this node's file holds no private key in PEM form")
    if b"ENCRYPTED" in content:
        raise RuntimeConfigError(f"{at}/key", "this node's key needs a passphrase, and nobody could give it")
