"""Who may call what. An endpoint says so once, in its signature; nothing of it runs before that holds.

    @router.post("/v1/exports/{export_id}/cancel")
    def cancel(export_id: str, caller: Annotated[Caller, needs(Permission.CANCEL)]) -> …:

The role is checked in an app: the endpoint names the app with ``caller.enter`` or ``caller.confine`` as soon as it
knows it. One that forgets to has its answer withheld (``accounting``).
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request, Response, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute

from export_pipeline.access.audit import ANONYMOUS
from export_pipeline.access.roles import Permission
from export_pipeline.access.tokens import Token
from export_pipeline.access.usage import Counted, today
from export_pipeline.gateway.problems import ProblemError, not_found
from export_pipeline.gateway.services import Services, services_of
from export_pipeline.requests.models import ALL_APPS
from export_pipeline.requests.rows import now

_bearer = HTTPBearer(auto_error=False, scheme_name="token", description="A token: ep_…")


@dataclass(slots=True)
class Access:
    """What becomes known of an access while it is answered; it goes into the history."""

    actor: str = ANONYMOUS
    action: str | None = None
    """None for what belongs into no history: probes, pages without data."""
    app_id: str | None = None
    target: str | None = None
    must_enter: bool = False
    """Whether an endpoint has to check the caller's role in an app before it answers."""
    entered: bool = False
    counts: Counter[Counted] = field(default_factory=Counter)

    def count(self, what: str, by: int = 1) -> None:
        """Count something in the app that was entered."""
        self.counts[today(self.app_id or ALL_APPS, what)] += by


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever holds a valid token, at an endpoint that needs a permission."""

    token: Token
    permission: Permission
    access: Access
    services: Services

    @property
    def actor(self) -> str:
        """How histories name the caller."""
        return self.token.actor

    def enter(self, app_id: str) -> None:
        """Go on in this app. Raises a Problem: 404 for an app that is not the caller's, 403 where the role lacks."""
        if not self.token.reaches(app_id):
            raise not_found()
        self.access.app_id = app_id
        self._need_the_permission()
        self.services.limits.hit("app", app_id)

    def confine(self, app_id: str | None) -> str | None:
        """Return the one app that a list is confined to; None for all. Raises as ``enter`` does."""
        if app_id is None and self.token.app_id == ALL_APPS:
            self._need_the_permission()
            return None
        app_id = app_id or self.token.app_id
        self.enter(app_id)
        return app_id

    def _need_the_permission(self) -> None:
        if not self.token.may(self.permission):
            raise ProblemError(
                403,
                "forbidden",
                f"this needs the permission '{self.permission}', which the role {self.token.role} does not have",
            )
        self.access.entered = True


class Needs:
    """The dependency of an endpoint that a permission is needed for."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(  # async, or each would wait for a thread
        self, request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None
    ) -> Caller:
        """Return who calls; ``Guarded`` has let them in."""
        caller: Caller = request.state.caller
        return caller


class Open:
    """The dependency of an endpoint that anybody may call."""

    async def __call__(self) -> None:
        """Let everybody in."""


def needs(permission: Permission) -> Any:
    """Return the dependency that gives an endpoint its Caller; nobody else comes in."""
    return Depends(Needs(permission))


OPEN = Depends(Open())
"""Marks an endpoint that anybody may call: ``dependencies=[OPEN]``."""


class Guarded(APIRoute):
    """A route that lets nobody's input be read before they are known."""

    @property
    def requirement(self) -> Needs | Open:
        """What the endpoint says of who may call it. Raises TypeError unless that is one thing."""
        found = list(_requirements(self.dependant))
        if len(found) != 1:
            raise TypeError(f"{self.path}: an endpoint needs one permission, or is OPEN; this one says {len(found)}")
        return found[0]

    def presented(self, request: Request) -> str | None:
        """Return the text of the token that a request comes with."""
        return presented(request)

    async def admit(self, request: Request, requirement: Needs | Open) -> None:
        """Let in who may come. Raises a Problem for who may not."""
        services = services_of(request)
        if isinstance(requirement, Needs):
            access = access_of(request)
            access.action, access.must_enter = self.name, True
            access.target = _target(request)
            token = await run_in_threadpool(authenticate, services, request, self.presented(request))
            access.actor = token.actor
            services.limits.hit("token", token.id)
            request.state.caller = Caller(token, requirement.permission, access, services)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Authenticate, then handle."""
        handle = super().get_route_handler()
        requirement = self.requirement

        async def admit_and_handle(request: Request) -> Response:
            await self.admit(request, requirement)
            return await handle(request)

        return admit_and_handle


def requirement_of(route: BaseRoute) -> Needs | Open:
    """Return who may call a route. Raises TypeError for one that does not say."""
    if not isinstance(route, Guarded):
        raise TypeError(f"{route}: the routes of the gateway are made with route_class=Guarded")
    return route.requirement


def authenticate(services: Services, request: Request, text: str | None) -> Token:
    """Return the valid token with this text. Raises a Problem with status 401, or 429 after many."""
    token = None if text is None else services.tokens.find(text)
    state = "unknown" if token is None else token.state(now())
    if token is not None and state == "valid":
        services.tokens.note_use(token)
        return token
    services.limits.hit("anonymous", address_of(request))
    if text is None:
        raise _unauthorized("no_token", "send a token: 'Authorization: Bearer ep_…'", 'Bearer realm="export_pipeline"')
    why = {"expired": "has expired", "revoked": "was revoked"}.get(state, "is unknown")
    raise _unauthorized(
        "invalid_token", f"this token {why}; ask for a new one", 'Bearer realm="export_pipeline", error="invalid_token"'
    )


def presented(request: Request) -> str | None:
    """Return the text of the token that a request comes with."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" and text.strip() else None


def address_of(request: Request) -> str:
    """Return where an anonymous call comes from."""
    return request.client.host if request.client else "unknown"


def access_of(request: Request) -> Access:
    """Return what is known of an access."""
    access: Access = request.state.access
    return access


def _requirements(dependant: Dependant) -> Iterable[Needs | Open]:
    for dependency in dependant.dependencies:
        if isinstance(dependency.call, Needs | Open):
            yield dependency.call
        else:
            yield from _requirements(dependency)


def _target(request: Request) -> str | None:
    """Return the id that a path names, as far as it looks like one."""
    named = next(iter(request.path_params.values()), None)
    return named if isinstance(named, str) and len(named) <= 36 and named.isascii() and named.isprintable() else None


def _unauthorized(code: str, detail: str, challenge: str) -> ProblemError:
    return ProblemError(401, code, detail, headers={"WWW-Authenticate": challenge})
