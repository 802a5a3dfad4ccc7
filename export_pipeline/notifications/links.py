"""The link that a notification carries: the HTTP API's, good without a login for as long as the file is there."""

from export_pipeline.access.links import LinkStore
from export_pipeline.errors import BadInputError
from export_pipeline.installation import Installation
from export_pipeline.notifications.news import LinkFor
from export_pipeline.requests.models import USER_EXPORT, Request

MADE_BY = "notification"


def link_maker(installation: Installation) -> LinkFor:
    """Return what makes links; without EXPORT_PIPELINE_PUBLIC_URL there are none.

    Raises BadInputError where that is set and what links need besides is missing.
    """
    settings = installation.settings
    if settings.public_url is None:
        return lambda _: None
    if settings.secret_key is None:
        raise BadInputError("EXPORT_PIPELINE_PUBLIC_URL is set, and links to it need EXPORT_PIPELINE_SECRET_KEY")
    public_url = settings.public_url.rstrip("/")
    try:
        links = LinkStore(installation.database, settings.secret_key.get_secret_value())
    except ImportError:
        raise BadInputError(
            "EXPORT_PIPELINE_PUBLIC_URL is set, and links to it need more: pip install 'export-pipeline[http]'"
        ) from None

    def link_for(request: Request) -> str | None:
        if request.kind != USER_EXPORT or request.expires_at is None:
            return None
        _, text = links.create(request.id, expires_at=request.expires_at, one_time=False, created_by=MADE_BY)
        return f"{public_url}/d/{text}"

    return link_for
