"""What a mail says, by the packaged templates and by an operator's own."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from export_pipeline.errors import BadInputError
from export_pipeline.notifications.mail_text import HTML, SUBJECT, TEXT, MailTemplates
from export_pipeline.notifications.news import News

NEWS = News(
    export_id="0198-export",
    app_id="app",
    what="export",
    outcome="completed",
    error_code=None,
    link="https://exports.example.org/d/token",
    expires_at=datetime(2026, 2, 7, 9, 30, tzinfo=UTC),
    requested_at=datetime(2026, 1, 31, 9, 0, tzinfo=UTC),
    finished_at=datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
)
FAILED = replace(NEWS, outcome="failed", error_code="incomplete", link=None, expires_at=None)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An operator's folder, with the packaged templates to begin with."""
    return shutil.copytree(str(files("export_pipeline.notifications") / "templates"), tmp_path / "own")


def test_a_finished_export_comes_with_its_link_and_until_when_it_works() -> None:
    mail = MailTemplates(None).render(NEWS)
    assert mail.subject == "Your export is ready"
    for body in (mail.text, mail.html):
        assert "https://exports.example.org/d/token" in body
        assert "2026-02-07 09:30 UTC" in body
        assert "0198-export" in body


def test_without_a_link_it_says_what_to_ask_for() -> None:
    mail = MailTemplates(None).render(replace(NEWS, link=None))
    for body in (mail.text, mail.html):
        assert "name this Export ID where you asked for it" in body
        assert "https://" not in body


@pytest.mark.parametrize(("code", "advice"), [("mongo_unreachable", "again later"), ("incomplete", "write to whoever")])
def test_a_failed_one_comes_with_its_reason_and_what_to_do(code: str, advice: str) -> None:
    mail = MailTemplates(None).render(replace(FAILED, error_code=code))
    assert mail.subject == "Your export has failed"
    for body in (mail.text, mail.html):
        assert code in body
        assert advice in body
        assert "ready" not in body


def test_a_backup_is_called_one() -> None:
    assert MailTemplates(None).render(replace(NEWS, what="backup")).subject == "Your backup is ready"


def test_the_html_closes_what_it_opens_and_fetches_nothing() -> None:
    class Tags(HTMLParser):
        open: list[str] = []  # noqa: RUF012
        attributes: set[str] = set()  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.attributes |= {name for name, _ in attrs}
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    for news in (NEWS, FAILED, replace(NEWS, link=None)):
        tags = Tags()
        tags.feed(MailTemplates(None).render(news).html)
        assert tags.open == []
    assert "src" not in Tags.attributes


def test_html_is_escaped_and_text_is_not() -> None:
    mail = MailTemplates(None).render(replace(FAILED, error_code="<b>&</b>"))
    assert "<b>&</b>" in mail.text
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in mail.html


def test_an_operator_s_templates_take_their_place(own: Path) -> None:
    (own / SUBJECT).write_text("{{ event }} for\n  {{ app_id }}\n")
    (own / "layout.html.jinja").write_text("<main>{% block main %}{% endblock %}</main>")
    (own / HTML).write_text(
        '{% extends "layout.html.jinja" %}{% block main %}{{ export_id }} bis '
        "{{ (expires_at or requested_at) | moment }}{% endblock %}"
    )
    mail = MailTemplates(own).render(NEWS)
    assert mail.subject == "export.completed for app"
    assert mail.html == "<main>0198-export bis 2026-02-07 09:30 UTC</main>"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (TEXT, None, "mail.txt.jinja: there is no mail.txt.jinja that can be read"),
        (TEXT, "{% if outcome %}", "mail.txt.jinja: line 1: "),
        (HTML, "\n\n{{ export_id ", "mail.html.jinja: line 3: "),
        (SUBJECT, "{{ person }}", "subject.txt.jinja: 'person' is undefined"),
        (TEXT, "{{ expires_at | moment }}", "mail.txt.jinja: AttributeError"),
        (TEXT, "{{ link | no_filter }}", "mail.txt.jinja: line 1: No filter named"),
        (TEXT, '{% include "other.jinja" %}', "mail.txt.jinja: there is no other.jinja"),
        (TEXT, '{% include "mail.txt.jinja" %}', "mail.txt.jinja: RecursionError"),
        (TEXT, "{{ 1 / 0 }}", "mail.txt.jinja: ZeroDivisionError"),
        (SUBJECT, "{% if link %}Ready{% endif %}", "subject.txt.jinja: it says nothing about some outcomes"),
        (TEXT, b"\xff", "mail.txt.jinja: UnicodeDecodeError"),
    ],
)
def test_a_mistake_in_one_is_told_before_anything_is_sent(
    name: str, content: str | bytes | None, says: str, own: Path
) -> None:
    (own / name).unlink()
    if content is not None:
        (own / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInputError) as raised:
        MailTemplates(own)
    assert str(raised.value).startswith(f"EXPORT_PIPELINE_MAIL_TEMPLATES: {says}")


def test_a_folder_that_is_not_there_is_a_mistake_too(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"EXPORT_PIPELINE_MAIL_TEMPLATES: subject\.txt\.jinja: there is no"):
        MailTemplates(tmp_path / "nowhere")
