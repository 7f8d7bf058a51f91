"""What the generated methods stand on."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from ...errors import BusError
from ...params import Params
from ..errors import ResultError
from ..paging import TOO_LARGE, read_pages

T = TypeVar("T")


class Operations:
    """Calls operations; the client implements `call`."""

    async def call(
        self,
        operation: str,
        params: dict[str, Any] | None = None,
        *,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Any:
        """Call an operation by its name, with plain parameters and a plain result."""
        raise NotImplementedError

    async def _operate(
        self,
        operation: str,
        params: Params,
        result: type[T],
        timeout: float | None,
        expect_version: int | None = None,
        request_id: str | None = None,
    ) -> T:
        sent = plain(params)
        try:
            answer = await self.call(
                operation, sent, expect_version=expect_version, timeout=timeout, request_id=request_id
            )
        except BusError as error:
            pages = {"limit"} & {*params.__struct_fields__} and "after" not in sent
            if error.code != TOO_LARGE or not pages:
                raise
            wanted = {"limit": limit} if (limit := getattr(params, "limit", None)) is not None else {}
            answer = await read_pages(
                lambda page: self.call(operation, page, timeout=timeout),
                {**sent, **wanted},
                events="since" in params.__struct_fields__,
            )
        return read_result(operation, answer, result)


def plain(params: Params) -> dict[str, Any]:
    """Parameters as they are sent: those that have their default are left out."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(params):
        value = getattr(params, field.name)
        if value is UNSET or (not field.required and value == field.default):
            continue
        if isinstance(value, Params):
            value = plain(value)
            if not value and not field.required:
                continue
        found[field.encode_name] = msgspec.to_builtins(value)
    return found


def read_result(operation: str, answer: Any, kind: type[T]) -> T:
    """A result in the contract's form.

    Raises:
        ResultError: it does not have it.
    """
    try:
        return msgspec.convert(answer, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ResultError(
            f"the manager's answer to {operation} was not understood ({error}): is it of another version?"
        ) from None
