"""The pages and their requests: sign-in, the realm, what it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import jinja2
from busbar.bus.causes import CAUSES
from busbar.bus.clock import Clock
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.params import ExplainedKind
from busbar.bus.printable import printable
from busbar.bus.roles import CHANGE_ROLES
from busbar.bus.system.version import version
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from .actions import Change, do, plan, revisions
from .guard import Guard, read_form, same
from .origins import Origins
from .rows import shown
from .session import FAILED, Session
from .sessions import Sessions, SignInError
from .streams import STREAMS, live, output, stream

HERE: Final = Path(__file__).parent
KINDS: Final[dict[str, ExplainedKind]] = {
    "routercluster": "routercluster",
    "workergroup": "workergroup",
    "worker": "worker",
    "node": "node",
}
NAME: Final = 160
"""Characters of an object's name in a request."""

Handler = Callable[[Request, Session], Awaitable[Response]]


class Web:
    """The application. `cookie` is the name of the cookie, which another port of this host may not share."""

    def __init__(self, sessions: Sessions, origins: Origins, clock: Clock, cookie: str) -> None:
        self._sessions, self._clock, self._cookie = sessions, clock, cookie
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        routes = [
            Route("/", self._page, methods=["GET"]),
            Route("/signin", self._sign_in_page, methods=["GET"]),
            Route("/signin", self._sign_in, methods=["POST"]),
            Route("/signout", self._signed_in(self._sign_out), methods=["POST"]),
            Route("/live", self._signed_in(self._live), methods=["GET"]),
            Route("/log", self._signed_in(self._log), methods=["GET"]),
            Route("/why", self._signed_in(self._why), methods=["GET"]),
            Route("/history", self._signed_in(self._history), methods=["GET"]),
            Route("/revisions", self._signed_in(self._revisions), methods=["GET"]),
            Route("/plan", self._signed_in(self._plan), methods=["POST"]),
            Route("/do", self._signed_in(self._do), methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        self.app = Starlette(routes=routes, middleware=[Middleware(Guard, origins)], lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(self._sessions.run(), name="web sessions")
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])

    # --- who asks

    def _session(self, request: Request) -> Session | None:
        return self._sessions.find(request.cookies.get(self._cookie))

    def _signed_in(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """What needs a session; a change needs its token too."""

        async def handle(request: Request) -> Response:
            session = self._session(request)
            if session is None:
                return answer({"error": "you are signed out"}, 401)
            if request.method == "POST" and not same(request.headers.get("x-busbar-token"), session.token):
                return answer({"error": "this page is out of date: load it again"}, 403)
            return await handler(request, session)

        return handle

    def _render(self, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        page = self._templates.get_template(name).render(
            realm=self._sessions.topics.realm, version=version(), **values
        )
        return HTMLResponse(page, status)

    def _set_cookie(self, request: Request, response: Response, name: str, value: str) -> None:
        secure = str(request.scope["busbar.origin"]).startswith("https:")
        response.set_cookie(name, value, path="/", secure=secure, httponly=True, samesite="strict")

    # --- pages

    async def _page(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return RedirectResponse("/signin", 303)
        return self._render("page.html", user=session.user, token=session.token)

    async def _sign_in_page(self, request: Request) -> Response:
        if self._session(request) is not None:
            return RedirectResponse("/", 303)
        return self._form(request)

    def _form(self, request: Request, error: SignInError | None = None, user: str = "") -> Response:
        """The form, with a token that its cookie repeats: no other page can sign somebody in."""
        token = request.cookies.get(f"{self._cookie}-form") or secrets.token_urlsafe(32)
        text = str(error) if error else ""
        response = self._render(
            "signin.html", error.status if error else 200, token=token, error=text, user=user
        )
        if error and error.retry_after:
            response.headers["retry-after"] = str(error.retry_after)
        self._set_cookie(request, response, f"{self._cookie}-form", token)
        return response

    async def _sign_in(self, request: Request) -> Response:
        form = await read_form(request)
        user = form.get("user", "").strip()
        if not same(form.get("token"), request.cookies.get(f"{self._cookie}-form")):
            return self._form(request, SignInError("this form is out of date: try again", 403), user)
        address = request.client.host if request.client else ""
        self._sessions.sign_out(request.cookies.get(self._cookie))
        try:
            made = await self._sessions.sign_in(user, form.get("password", ""), address)
        except SignInError as error:
            return self._form(request, error, user)
        response = RedirectResponse("/", 303)
        self._set_cookie(request, response, self._cookie, made)
        return response

    async def _sign_out(self, request: Request, _: Session) -> Response:
        self._sessions.sign_out(request.cookies.get(self._cookie))
        response = answer({})
        response.delete_cookie(self._cookie, path="/")
        return response

    # --- what a page asks for

    async def _live(self, _: Request, session: Session) -> Response:
        _check_streams(session)
        return stream(session, live(session, self._clock))

    async def _log(self, request: Request, session: Session) -> Response:
        _check_streams(session)
        return stream(session, output(session, _given(request, "object")))

    async def _why(self, request: Request, session: Session) -> Response:
        kind = KINDS.get(_given(request, "kind"))
        if kind is None:
            raise HTTPException(400, "there is no such kind")
        target = _given(request, "object")

        async def explain() -> Any:
            found = await session.bus.explain(object=target, kind=kind)
            statements = [
                {
                    "cause": each.code in CAUSES,
                    "text": shown(each.text),
                    "event": (each.event or "").lstrip("0"),
                    "at_ms": each.at_ms,
                    "object": shown(each.object),
                }
                for each in found.statements
            ]
            return {"status": shown(found.status), "well": found.well, "statements": statements}

        return await asked(explain)

    async def _history(self, request: Request, session: Session) -> Response:
        """Seconds ago, share of a processor and bytes; of what this person may see alone."""
        key = _given(request, "object")
        if key not in session.board.objects:
            return answer({"error": "there is no such object"}, 404)
        points = self._sessions.history.points(key, self._clock.monotonic())
        return answer({"points": [(round(ago, 1), round(cpu, 4), rss) for ago, cpu, rss in points]})

    # --- changes

    async def _revisions(self, request: Request, session: Session) -> Response:
        cluster = _given(request, "object")
        return await asked(lambda: revisions(session.bus, cluster))

    async def _plan(self, request: Request, session: Session) -> Response:
        change, _ = await self._change(request, session)
        return await asked(lambda: plan(session.bus, change))

    async def _do(self, request: Request, session: Session) -> Response:
        change, version = await self._change(request, session)

        async def work() -> Any:
            await do(session.bus, change, version)
            return {}

        return await asked(work)

    async def _change(self, request: Request, session: Session) -> tuple[Change, int | None]:
        """What is asked for, and the version that it was planned with; only of who may change something."""
        if session.role not in CHANGE_ROLES:
            raise HTTPException(403, "your role may not change anything")
        form = await read_form(request)
        try:
            version = int(form["version"]) if form.get("version") else None
            return Change.of(form), version
        except ValueError as error:
            raise HTTPException(400, printable(str(error))) from None


def answer(value: Any, status: int = 200) -> Response:
    """A plain value as JSON."""
    return Response(encode(value), status, media_type="application/json")


async def asked(call: Callable[[], Awaitable[Any]]) -> Response:
    """What the manager answers to a call, or its error as text."""
    try:
        return answer(await call())
    except BusError as error:
        return answer({"error": printable(error.detail), "code": error.code}, error.row.status)
    except (*FAILED, ValueError) as error:
        return answer({"error": printable(str(error))}, 503)


def _given(request: Request, name: str) -> str:
    value = request.query_params.get(name, "")
    if not 0 < len(value) <= NAME:
        raise HTTPException(400, f"{name} is missing or too long")
    return value


def _check_streams(session: Session) -> None:
    if session.streams >= STREAMS:
        raise HTTPException(429, "too many pages are open", {"retry-after": "5"})
