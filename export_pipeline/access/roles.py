"""What may be done, and which role of an app may do it. No I/O."""

from collections.abc import Mapping
from enum import StrEnum

from export_pipeline.errors import BadInputError
from export_pipeline.requests.models import ALL_APPS, check_app_id


class Permission(StrEnum):
    """One thing that may be done in an app."""

    STATUS = "status"
    """See requests: the history, one's state, usage."""
    ESTIMATE = "estimate"
    EVENTS = "events"
    REQUEST = "request"
    DOWNLOAD = "download"
    """Fetch a package and its manifest, and hand out links to it."""
    CANCEL = "cancel"
    RETRY = "retry"
    BACKUP = "backup"
    DELETE = "delete"
    TOKENS = "tokens"
    SCHEDULE = "schedule"


class Role(StrEnum):
    """What a token is for; each role may do all that those before it may."""

    REPORTER = "reporter"
    DEVELOPER = "developer"
    MAINTAINER = "maintainer"
    OWNER = "owner"


_ADDED: Mapping[Role, frozenset[Permission]] = {
    Role.REPORTER: frozenset({Permission.STATUS}),
    Role.DEVELOPER: frozenset({Permission.ESTIMATE, Permission.EVENTS}),
    Role.MAINTAINER: frozenset(
        {Permission.REQUEST, Permission.DOWNLOAD, Permission.CANCEL, Permission.RETRY, Permission.BACKUP}
    ),
    Role.OWNER: frozenset({Permission.DELETE, Permission.TOKENS, Permission.SCHEDULE}),
}


def permissions_of(role: Role) -> frozenset[Permission]:
    """Return all that a role may do."""
    roles = list(Role)
    return frozenset().union(*(_ADDED[lower] for lower in roles[: roles.index(role) + 1]))


def check_scope(app_id: str) -> None:
    """Raise BadInputError unless this is an app's id or ``*``."""
    if app_id != ALL_APPS:
        check_app_id(app_id)


def find_role(name: str) -> Role:
    """Return the role of this name. Raises BadInputError that lists them."""
    try:
        return Role(name)
    except ValueError:
        raise BadInputError(f"role: expected one of {', '.join(Role)}") from None
