"""The page's parts as text: its head with what is held and what for, the opening of a collection's section, its foot.

What goes into them is gathered here and written by the templates in ``page/``, which escape all that they are given.
"""

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from export_pipeline.formats.bson_fields import Field, fields
from export_pipeline.formats.extended_json import encode_document
from export_pipeline.formats.html_chart import chart
from export_pipeline.formats.html_data import attribute
from export_pipeline.formats.html_survey import Held, HtmlSurvey
from export_pipeline.formats.html_times import day_text
from export_pipeline.formats.html_values import EMPTY, Cell, cell, fields_cell, indented, name_text, shown
from export_pipeline.formats.protocol import About, CollectionAbout

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_COLUMNS = 12
"""Of a table; what else a document holds is in its last column and in the whole document beneath it."""
MOST_FIELDS = 400
"""Of a document that a table looks at."""
LONGEST_NAME = 60
"""In bytes. Longer names are data, and get no column."""
MOST_JSON = 20_000
"""Characters of a whole document that the page shows."""
LARGEST_DOCUMENT = 256 << 10
"""In bytes of BSON. Of a larger one the page shows the columns alone."""
_NAMELESS = "(no name)"

MOST_UIDS = 12
"""That the page's head names."""


@dataclass(frozen=True, slots=True)
class Place:
    """A collection, as the page tells of it."""

    title: str
    collection: str
    anchor: str
    held: Held
    about: CollectionAbout

    @property
    def period(self) -> str:
        """When its documents are from; nothing where nobody knows."""
        if self.held.first is None or self.held.last is None:
            return ""
        first, last = day_text(self.held.first), day_text(self.held.last)
        return first if first == last else f"{first} to {last}"


@dataclass(frozen=True, slots=True)
class Group:
    """The collections of one category."""

    title: str
    places: list[Place]

    @property
    def documents(self) -> int:
        """How many documents there are in all of them."""
        return sum(place.held.documents for place in self.places)

    @property
    def purposes(self) -> list[str]:
        """What they are for, each said once."""
        return _once(place.about.purpose for place in self.places)

    @property
    def retentions(self) -> list[str]:
        """For how long they are kept."""
        return _once(place.about.retention for place in self.places)

    @property
    def sources(self) -> list[str]:
        """Where they come from."""
        return _once(place.about.source for place in self.places)


class Column(NamedTuple):
    """One column of a table."""

    name: bytes
    label: str
    unit: str | None
    """Of the documents' time, in the column that holds it."""


class Row(NamedTuple):
    """One document of a table."""

    cells: list[Cell]
    """Of the columns, and of what has none."""
    json: str
    """The whole document, as far as the page shows it."""
    note: str

    @property
    def has_rest(self) -> bool:
        """Whether anything has no column."""
        return self.cells[-1] is not EMPTY


def places(survey: HtmlSurvey, about: About | None) -> list[Place]:
    """Return all collections: those that were looked into, in their order, and those that hold something."""
    said = dict(about.collections) if about else {}
    names = dict.fromkeys([*said, *survey.held])
    return [
        Place(
            _title(said[name].name if name in said else name),
            name,
            f"collection-{number}",
            survey.held.get(name, Held()),
            said.get(name, CollectionAbout(name, "")),
        )
        for number, name in enumerate(names, 1)
    ]


def head(survey: HtmlSurvey, about: About | None) -> bytes:
    """Return the page up to its first section."""
    from markupsafe import Markup

    listed = places(survey, about)
    return _render(
        "head.html",
        css=Markup(_part("page.css")),  # noqa: S704 - a file of ours
        policy=_policy(),
        about=about,
        uids=[] if about is None else about.uids[:MOST_UIDS],
        survey=survey,
        places=listed,
        held=[place for place in listed if place.held.documents],
        groups=_groups(listed) if about else [],
        chart=chart(survey.months),
        period=_period(survey),
    )


def section(place: Place, documents: Sequence[bytes]) -> bytes:
    """Return the opening of a collection's section with a table of its first documents."""
    columns, rows = _table(place.about, documents)
    return _render(
        "section.html",
        place=place,
        attribute=attribute(place.collection),
        columns=columns,
        rows=rows,
    )


def section_end() -> bytes:
    """Return what ends a section."""
    return b"</section><!-- collection -->\n"


def foot(about: About | None) -> bytes:
    """Return what follows the last section."""
    from markupsafe import Markup

    return _render("foot.html", about=about, js=Markup(_part("page.js")))  # noqa: S704 - a file of ours


# The table


def _table(about: CollectionAbout, documents: Sequence[bytes]) -> tuple[list[Column], list[Row]]:
    """Return the columns that suit these documents, and a row for each of them."""
    members = [list(islice(fields(document, 0, len(document)), MOST_FIELDS + 1)) for document in documents]
    columns = _columns(about, members)
    return columns, [_row(document, fields_, columns) for document, fields_ in zip(documents, members, strict=True)]


def _columns(about: CollectionAbout, documents: list[list[Field]]) -> list[Column]:
    """Return the fields that the most documents have: the time first, the id last, else as the documents order them."""
    time = about.time_field.encode() if about.time_field else b"_id"
    found = Counter(member.name for members in documents for member in members if len(member.name) <= LONGEST_NAME)
    for always in {time, b"_id"} & found.keys():
        found[always] += len(documents) * MOST_FIELDS
    common = {name for name, _ in found.most_common(MOST_COLUMNS)}
    ordered = sorted((name for name in found if name in common), key=lambda name: 2 if name == b"_id" else name != time)
    unit = about.time_unit if about.time_field else None
    return [Column(name, name_text(name).strip() or _NAMELESS, unit if name == time else None) for name in ordered]


def _row(document: bytes, members: list[Field], columns: list[Column]) -> Row:
    by_name: dict[bytes, Field] = {}
    rest = []
    names = {column.name for column in columns}
    for member in members[:MOST_FIELDS]:
        if member.name in names and member.name not in by_name:
            by_name[member.name] = member
        else:
            rest.append(member)
    cells = [
        cell(document, by_name[column.name], column.unit) if column.name in by_name else EMPTY for column in columns
    ]
    cells.append(fields_cell(document, rest, more=len(members) > MOST_FIELDS) if rest else EMPTY)
    if len(document) > LARGEST_DOCUMENT:
        return Row(cells, "", f"This record is large ({len(document) / 1e6:.1f} MB). It is whole in the saved data.")
    text, is_all = indented(encode_document(document, "relaxed").decode(), MOST_JSON)
    note = "" if is_all else f"These are its first {MOST_JSON:,} characters. It is whole in the saved data."
    return Row(cells, text, note)


# Words


def _title(name: str) -> str:
    """Return a technical name as words.

    >>> _title("crash_users")
    'Crash users'
    """
    words = re.sub(r"[_\s]+", " ", name).strip()
    return words[:1].upper() + words[1:] if words else name


def records(documents: int) -> str:
    """Say how many documents these are, in a word that everybody knows."""
    return f"{documents:,} record{'' if documents == 1 else 's'}"


def _moment(moment: datetime) -> str:
    return f"{day_text(int(moment.timestamp() * 1000))}, {moment.astimezone(UTC):%H:%M} UTC"


def _groups(listed: list[Place]) -> list[Group]:
    """Return the categories, those that hold nothing last."""
    by_category: dict[str | None, list[Place]] = {}
    for place in listed:
        by_category.setdefault(place.about.category, []).append(place)
    groups = [Group(_title(category) if category else "Other", of) for category, of in by_category.items()]
    return sorted(groups, key=lambda group: group.documents == 0)


def _period(survey: HtmlSurvey) -> tuple[str, str] | None:
    firsts = [held.first for held in survey.held.values() if held.first is not None]
    lasts = [held.last for held in survey.held.values() if held.last is not None]
    return (day_text(min(firsts)), day_text(max(lasts))) if firsts else None


def _once(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


# Templates


def _render(template: str, **values: object) -> bytes:
    return _environment().get_template(template).render(values).encode()


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: shown(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=FunctionLoader(_part),
    )
    environment.filters |= {"records": records, "moment": _moment}
    return environment


@cache
def _part(name: str) -> str:
    """Return one of the files that make the page."""
    return (files(__package__) / "page" / name).read_text("utf-8")


@cache
def _policy() -> str:
    """Return the page's Content Security Policy: nothing is loaded, and nothing runs but what was written here."""
    return (
        f"default-src 'none'; script-src '{_hash('page.js')}'; style-src '{_hash('page.css')}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(name: str) -> str:
    return f"sha256-{b64encode(sha256(_part(name).encode()).digest()).decode()}"
