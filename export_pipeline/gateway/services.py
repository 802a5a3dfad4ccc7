"""What the endpoints work with, put together once for an app and handed to each by ``Here``."""

from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from export_pipeline.access.audit import Recorder
from export_pipeline.access.links import LinkStore
from export_pipeline.access.signing import Signer
from export_pipeline.access.tokens import TokenStore
from export_pipeline.errors import BadInputError
from export_pipeline.exporter import Exporter
from export_pipeline.gateway.http_figures import HttpFigures
from export_pipeline.gateway.limits import RateLimits
from export_pipeline.gateway.polling import Polls
from export_pipeline.settings import Settings

_DOWNLOADING_THREADS = 16
_CHECKING_THREADS = 4


class Services:
    """The library, and what the gateway keeps beside it."""

    def __init__(self, exporter: Exporter) -> None:
        key = secret_key(exporter.settings)
        # All but the MongoDB, which may be away; opened here, since threads that share an endpoint would each open it.
        self.exporter = exporter
        self.settings = exporter.settings
        self.storage = exporter.storage
        self.requests = exporter.requests
        self.catalog = exporter.catalog
        self.tokens = TokenStore(exporter.database)
        self.links = LinkStore(exporter.database, key)
        self.recorder = Recorder(exporter.database)
        self.cursors = Signer(key, "cursor")
        self.limits = RateLimits(exporter.settings)
        self.polls = Polls()
        self.http_figures = HttpFigures()
        # Threads of their own: what waits for a MongoDB, a disk or a probe holds up nobody who asks for a status.
        self.estimating = CapacityLimiter(exporter.settings.concurrent_reads)
        self.streaming = CapacityLimiter(exporter.settings.concurrent_reads)
        self.downloading = CapacityLimiter(_DOWNLOADING_THREADS)
        self.checking = CapacityLimiter(_CHECKING_THREADS)

    def url(self, path: str) -> str:
        """Return where a path of ours is reached. What a caller says of our host is not believed."""
        return f"{(self.settings.public_url or '').rstrip('/')}{path}"


def secret_key(settings: Settings) -> str:
    """Return the key that signs links and cursors. Raises BadInputError where none is set."""
    if settings.secret_key is None:
        raise BadInputError(
            "the HTTP API signs its links: set EXPORT_PIPELINE_SECRET_KEY to 32 random characters or more, "
            "the same on every machine"
        )
    return settings.secret_key.get_secret_value()


def services_of(request: Request) -> Services:
    """Return the services of the app that a request has come to."""
    services: Services = request.app.state.services
    return services


async def _here(request: Request) -> Services:
    return services_of(request)


Here = Annotated[Services, Depends(_here)]
