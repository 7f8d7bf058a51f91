"""What the node reports of each runtime; programs are asked for their version once, and when they change."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from busbar.bus.decode import digest, encode
from busbar.bus.json_schema import MAX_SCHEMA
from busbar.bus.messages import MAX_SCHEMAS, RuntimeDetail

from ..runtimes import Runtime
from ..runtimes.describe import Identity, schema_of
from .host import Host

_REASON: int = 500


class RuntimeDetails:
    """The versions that are known, and the schemas. Not asked yet: no version."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._versions: dict[str, tuple[Identity, str | None]] = {}
        self._schemas: dict[str, tuple[Runtime, str | None, Mapping[str, Any] | None]] = {}

    async def refresh(self, runtimes: Mapping[str, Runtime]) -> bool:
        """Ask the programs that are new or have changed, one after the other; whether anything is new."""
        found: dict[str, tuple[Identity, str | None]] = {}
        for name, runtime in runtimes.items():
            identity = self._host.program_identity(runtime)
            if identity is None:
                continue
            known = self._versions.get(name)
            if known is None or known[0] != identity:
                known = identity, await self._host.program_version(runtime, identity[0])
            found[name] = known
        changed = found != self._versions
        self._versions = found
        return changed

    def details(
        self, runtimes: Mapping[str, Runtime], unavailable: Mapping[str, str]
    ) -> dict[str, RuntimeDetail]:
        """By the runtime's name."""
        return {
            name: RuntimeDetail(
                version=self._versions[name][1] if name in self._versions else None,
                unavailable=unavailable[name][:_REASON] if name in unavailable else None,
                schema=self._schema(name, runtime)[0],
            )
            for name, runtime in list(runtimes.items())[:256]
        }

    def schemas(self, runtimes: Mapping[str, Runtime], digests: Collection[str]) -> dict[str, dict[str, Any]]:
        """Those of the schemas with these digests that there are."""
        known = (self._schema(name, runtime) for name, runtime in runtimes.items())
        found = {key: dict(schema) for key, schema in known if key in digests and key and schema}
        return dict(list(found.items())[:MAX_SCHEMAS])

    def _schema(self, name: str, runtime: Runtime) -> tuple[str | None, Mapping[str, Any] | None]:
        """A runtime's schema and digest; none where it is too large to be reported."""
        known = self._schemas.get(name)
        if known is None or known[0] is not runtime:
            schema = schema_of(runtime)
            fits = schema is not None and len(encode(schema)) <= MAX_SCHEMA
            known = self._schemas[name] = runtime, digest(schema) if fits else None, schema
        return known[1], known[2]
