"""The text of a mail: three templates, the packaged ones or an operator's, tried out before anything is sent."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from export_pipeline.errors import BadInputError
from export_pipeline.notifications.news import News

if TYPE_CHECKING:
    from jinja2 import Environment

SUBJECT = "subject.txt.jinja"
TEXT = "mail.txt.jinja"
HTML = "mail.html.jinja"

_A_MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)
_READY = News(
    export_id="00000000-0000-7000-8000-000000000000",
    app_id="app",
    what="export",
    outcome="completed",
    error_code=None,
    link="https://example.org/d/link",
    expires_at=_A_MOMENT,
    requested_at=_A_MOMENT,
    finished_at=_A_MOMENT,
)
_SAMPLES = (
    _READY,
    replace(_READY, link=None, expires_at=None),
    replace(_READY, outcome="failed", error_code="read_failed", link=None, expires_at=None),
    replace(_READY, outcome="failed", error_code=None, link=None, expires_at=None, finished_at=None),
)
"""What the templates have to be able to tell."""


@dataclass(frozen=True, slots=True)
class MailText:
    """What a mail says."""

    subject: str
    text: str
    html: str


class MailTemplates:
    """The templates, compiled and tried out.

    They are given the fields of ``News`` with ``event`` and ``advice``, and the filter ``moment`` for its times.
    """

    def __init__(self, folder: Path | None) -> None:
        """Read the templates in ``folder``, or the packaged ones; BadInputError names the file and what is wrong."""
        self._environment = _environment(folder)
        for sample in _SAMPLES:
            self.render(sample)

    def render(self, news: News) -> MailText:
        """Return the mail about ``news``. Raises BadInputError where a template cannot tell it."""
        given = {**asdict(news), "event": news.event, "advice": news.advice}
        subject, text, html = (self._rendered(name, given) for name in (SUBJECT, TEXT, HTML))
        return MailText(" ".join(subject.split()), text, html)

    def _rendered(self, name: str, given: dict[str, object]) -> str:
        from jinja2 import TemplateError, TemplateNotFound, TemplateSyntaxError

        try:
            rendered = self._environment.get_template(name).render(given)
        except TemplateNotFound as error:
            raise _mistake(name, f"there is no {error.name} that can be read in this folder") from None
        except TemplateSyntaxError as error:
            raise _mistake(error.name or name, f"line {error.lineno}: {error.message}") from None
        except TemplateError as error:
            raise _mistake(name, str(error.message)) from None
        except OSError as error:
            raise _mistake(name, error.strerror or type(error).__name__) from None
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise _mistake(name, f"{type(error).__name__}: {error}") from None
        if not rendered.strip():
            raise _mistake(name, "it says nothing about some outcomes; see the packaged one")
        return rendered


def moment(value: datetime) -> str:
    """Return a time as it stands in a mail."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _environment(folder: Path | None) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, FunctionLoader, StrictUndefined, select_autoescape

    environment = Environment(
        autoescape=select_autoescape(("html.jinja",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_packaged) if folder is None else FileSystemLoader(folder),
    )
    environment.filters["moment"] = moment
    return environment


def _packaged(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _mistake(name: str, what: str) -> BadInputError:
    return BadInputError(f"EXPORT_PIPELINE_MAIL_TEMPLATES: {name}: {what}")
