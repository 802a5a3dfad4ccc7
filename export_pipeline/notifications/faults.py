"""How handing a notification over can go wrong, in the three ways that decide what becomes of it.

No message quotes an address, a link, or what the other side answered: that often repeats the address.
"""

from export_pipeline.errors import ExportPipelineError


class NotDeliveredError(ExportPipelineError):
    """It was not accepted, and may be later."""

    code = "notification_not_delivered"


class RefusedError(ExportPipelineError):
    """It was not accepted and never will be."""

    code = "notification_refused"


class UncertainDeliveryError(ExportPipelineError):
    """It may have been accepted: nobody answered after it was handed over."""

    code = "notification_uncertain"


class StaleNotificationError(ExportPipelineError):
    """The notification is no longer this sender's: it took too long, or the request's person was forgotten."""

    code = "stale_notification"
