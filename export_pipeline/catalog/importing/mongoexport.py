"""Reading the mongoexport commands that plugins have, and turning each into a catalogue entry.

Nothing is run and nothing is guessed: a command becomes an entry only if it surely selects users in a collection of
one app; otherwise it is refused with the reason. Neither says anything of what the command holds beside the names
that an entry is made of: no ids, no passwords, no hosts. On the way from a command to an entry:

- ``read_commands`` splits a file into commands,
- ``export_program`` finds mongoexport in a command, behind wrappers and shells (``shell_words``),
- ``export_options`` reads its options,
- ``query_text`` parses its query, and ``user_selector`` finds the user key in it.

An entry reads all of a user's documents and all of their fields, so ``--fields``, ``--skip`` and ``--limit`` are
dropped, as is ``--sort`` and all that says how the output looks.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias
from urllib.parse import unquote

from export_pipeline.catalog.importing.export_options import read_options
from export_pipeline.catalog.importing.export_program import arguments_in_line, arguments_in_words, is_program
from export_pipeline.catalog.importing.query_text import parse_query
from export_pipeline.catalog.importing.shell_words import UNKNOWN, logical_lines, split_commands
from export_pipeline.catalog.importing.user_selector import user_key
from export_pipeline.catalog.model import APP_ID
from export_pipeline.errors import BadInputError

Command: TypeAlias = object
"""A shell line, a list of arguments, or an object with ``cmd`` and ``args``; anything else will be refused."""

_NO_NAME = re.compile(r"[\s\"'`$*?{}<>|&;\\]")
_NO_DATABASE = re.compile(r"[/.@:%=]")  # with some of these a server would agree, but they stem from a mistake
_LONGEST_DATABASE = 60
_LONGEST_COLLECTION = 150
_URI_PARAMETERS = re.compile(r"\w+=[^&]*(?:&\w+=[^&]*)*")


@dataclass(frozen=True, slots=True)
class ImportedEntry:
    """What a command reads, as a catalogue says it."""

    index: int
    database: str | None
    collection: str
    user_key: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command did not become an entry."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class ImportResult:
    """All commands of an import, by their place in it: entries and refusals."""

    entries: list[ImportedEntry]
    refused: list[Refusal]


def import_commands(commands: Sequence[Command], app_id: str) -> ImportResult:
    """Turn commands, all made for the app ``app_id``, into catalogue entries for any app."""
    if not app_id.strip():
        raise BadInputError("the app id is empty; give the id of the app that the commands were made for")
    result = ImportResult([], [])
    for index, command in enumerate(commands):
        try:
            result.entries.append(_entry(index, command, app_id))
        except BadInputError as refusal:
            result.refused.append(Refusal(index, str(refusal)))
    return result


def read_commands(text: str) -> list[Command]:
    """Split a file into commands: a JSON array of them, or one a line, as JSON or as a shell line."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    try:
        return _commands_in(_read_json(text))
    except json.JSONDecodeError as error:
        lines = logical_lines(text)
        # one JSON value spread over lines, with a mistake in it; else each line stands for itself
        if lines and lines[0][1].lstrip()[0] in "[{" and not _is_json(lines[0][1]):
            _refuse_json(error.lineno, error)
    return [_command_in(line, number) for number, line in lines]


def _commands_in(value: object) -> list[Command]:
    """Take the commands out of a JSON value: it is one itself, or a list of them."""
    if isinstance(value, list):
        return [value] if _is_argument_list(value) else value
    if isinstance(value, str | dict):
        return [value]
    raise BadInputError("line 1: the file holds a JSON value that is no command")


def _is_argument_list(items: Sequence[object]) -> bool:
    """Tell a list of arguments from a list of shell lines, none of which begins with a dash."""
    if not all(isinstance(item, str | bool) for item in items):
        return False
    texts = [str(item) for item in items]
    return len(texts) > 1 and is_program(texts[0]) and any(text.startswith("-") for text in texts)


def _command_in(line: str, number: int) -> Command:
    """Read a line of a file: a JSON value if it looks like one, else a shell line."""
    try:
        return _read_json(line)
    except json.JSONDecodeError as error:
        if line.lstrip()[0] in "[{":
            _refuse_json(number, error)
        return line


def _is_json(line: str) -> bool:
    try:
        _read_json(line)
    except json.JSONDecodeError:
        return False
    return True


def _read_json(text: str) -> object:
    try:
        return json.loads(text, parse_int=str)  # a number is an argument like any other, a port for instance
    except RecursionError:
        raise BadInputError("the file is nested too deeply to hold commands") from None


def _refuse_json(line: int, error: json.JSONDecodeError) -> NoReturn:
    raise BadInputError(f"line {line}: this begins like JSON, but is not: {error.msg}") from None


def _entry(index: int, command: Command, app_id: str) -> ImportedEntry:
    options = read_options(_arguments(command))
    for name in ("query", "collection", "db"):
        if UNKNOWN in options.get(name, ""):
            raise BadInputError(f"--{name} holds a shell variable or a command substitution")
    if "queryFile" in options:
        raise BadInputError("no selector on a user in the command: it is in the file of --queryFile; use --query")
    query = options.get("query", "")
    if not query.strip():
        raise BadInputError("no selector on a user: without a query the whole collection is read")
    key = user_key(parse_query(query), app_id)
    return ImportedEntry(index, _database(options, app_id), _collection(options, app_id), key)


def _arguments(command: Command) -> list[str]:
    """Find the arguments of mongoexport in a command of any form."""
    match command:
        case str():
            return arguments_in_line(command)
        case {"cmd": str(program), "args": str(arguments), **others} if not others:
            return arguments_in_line(f"{program} {arguments}")
        case {"cmd": str(program), "args": [*arguments], **others} if not others:
            words = _texts([program, *arguments])
        case {"cmd": str(program), **others} if not others:
            words = _texts([program])
        case [*arguments]:
            words = _texts(arguments)
        case _:
            raise BadInputError('not mongoexport: a command is a text, a list of texts, or has just "cmd" and "args"')
    if words and not is_program(words[0]):  # a shell line, or the beginning of one
        if len(words) == 1:
            return arguments_in_line(words[0])
        first = split_commands(words[0])
        words = [*(first[0] if len(first) == 1 else []), *words[1:]]
    return arguments_in_words(words)


def _texts(arguments: Sequence[object]) -> list[str]:
    """Turn arguments into texts; a port may come as a number, a flag as a boolean."""
    texts = []
    for argument in arguments:
        if not isinstance(argument, str | int):
            raise BadInputError("an argument is not a text")
        text = str(argument).lower() if isinstance(argument, bool) else str(argument)
        if UNKNOWN in text:
            raise BadInputError("the command holds a NUL character")
        texts.append(text)
    return texts


def _collection(options: dict[str, str], app_id: str) -> str:
    name = _without_quotes(options.get("collection", ""))
    if not name:
        raise BadInputError("--collection is missing or empty")
    rest = name.replace(app_id, "")
    if _NO_NAME.search(name) or not name.isprintable() or rest.startswith("system.") or len(rest) > _LONGEST_COLLECTION:
        raise BadInputError("--collection is not a name that a collection of a plugin can have")
    if name.count(app_id) != 1:
        raise BadInputError("--collection must hold the app id once, or one app's export would read another app's data")
    return name.replace(app_id, APP_ID)


def _database(options: dict[str, str], app_id: str) -> str | None:
    """Name the database that is read; none is named for one that the server's address or the default decides."""
    in_uri = _database_in(options["uri"]) if "uri" in options else None
    name = _without_quotes(options["db"]) if "db" in options else in_uri
    if name is None:
        if UNKNOWN in options.get("uri", ""):
            raise BadInputError("--uri holds a shell variable, and the database may be part of it; give it with --db")
        if "uri" not in options and "config" in options:
            raise BadInputError("the database may be in the file of --config; give it with --db")
        return None
    if in_uri not in (None, name):
        raise BadInputError("--db and the connection string name different databases")
    unfit = _NO_NAME.search(name) or _NO_DATABASE.search(name) or not name.isprintable()
    if not name or unfit or len(name) > _LONGEST_DATABASE:
        raise BadInputError("the name of the database is empty, or not one that a database can have")
    if app_id in name:
        raise BadInputError("the name of the database holds the app id, so the entry would fit this app only")
    return name


def _database_in(uri: str) -> str | None:
    """Find the database in a connection string, if it names one."""
    scheme, found, rest = _without_quotes(uri).partition("://")
    if not found or scheme not in ("mongodb", "mongodb+srv"):
        if UNKNOWN in scheme:
            return None
        raise BadInputError("--uri is not a connection string; it begins with mongodb:// or mongodb+srv://")
    body, _, parameters = rest.partition("?")
    address, slash, name = body.partition("/")
    # an @ this late shows a slash or a question mark in a password, where they have to be escaped
    is_late = "@" in parameters and not (slash and "@" in address and _URI_PARAMETERS.fullmatch(parameters))
    if "@" in name or is_late:
        raise BadInputError("the connection string does not parse; special characters of a password must be escaped")
    return (unquote(name) or None) if UNKNOWN not in name else None


def _without_quotes(value: str) -> str:
    """Take off a value's own quotes, which an argument has if it was written for a shell."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
