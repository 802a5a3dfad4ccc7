"""The options of mongoexport, read as mongoexport reads them.

Its parser (go-flags) takes ``--db x``, ``--db=x``, ``-d x``, ``-dx`` and ``-d=x``; the last of several wins; a value
that begins with a dash has to be attached. On top of that this takes what plugins hand over: empty arguments, and
several options fused into one argument. A message names options, never their values.
"""

import re
from collections import deque
from collections.abc import Sequence
from typing import NoReturn

from export_pipeline.catalog.importing.query_text import parse_prefix
from export_pipeline.catalog.importing.shell_words import UNKNOWN, split_commands
from export_pipeline.catalog.importing.user_selector import speakable
from export_pipeline.errors import BadInputError

# Options of all versions since 2.2, and the tls ones that Countly passes on.
_NAMES_VALUED = """
host port uri username password authenticationDatabase authenticationMechanism awsSessionToken gssapiServiceName
gssapiHostName sslCAFile sslPEMKeyFile sslPEMKeyPassword sslCRLFile sslDisabledProtocols tlsCAFile tlsCRLFile
tlsCertificateKeyFile tlsCertificateKeyFilePassword tlsDisabledProtocols db collection query queryFile fields
fieldFile type out sort skip limit readPreference jsonFormat config dbpath numThreads failpoints dialTimeout
socketTimeout serverSelectionTimeout TCPKeepAliveSeconds compressors
"""
_NAMES_FLAGS = """
ssl sslAllowInvalidCertificates sslAllowInvalidHostnames sslFIPSMode sslWeakCertificateValidation tls tlsInsecure
tlsAllowInvalidCertificates tlsAllowInvalidHostnames tlsFIPSMode tlsUseSystemCA ipv6 quiet csv jsonArray pretty
noHeaderLine forceTableScan slaveOk assertExists allowDiskUse directoryperdb journal trace
"""
_VALUED = frozenset(_NAMES_VALUED.split())
_FLAGS = frozenset(_NAMES_FLAGS.split())
_SHORT_VALUED = {
    "h": "host",
    "u": "username",
    "p": "password",
    "d": "db",
    "c": "collection",
    "q": "query",
    "f": "fields",
    "o": "out",
}
_SHORT_FLAGS = frozenset("k")  # --slaveOk
_ENDING = frozenset({"help", "version"})  # with these nothing is exported
_VERBOSITY = re.compile(r"v*(?:=?[0-9]+)?")

SELECTING = frozenset({"db", "collection", "query", "queryFile", "uri", "config"})
"""The options that decide what is exported; all others are understood and forgotten."""

# No value of these holds a space, so whatever follows one was fused into the argument.
_ONE_WORD = frozenset({"db", "collection", "host", "port", "uri", "authenticationDatabase", "skip", "limit", "type"})
_NUMERIC = frozenset({"skip", "limit"})

_LONG_OPTION = re.compile(r"--([A-Za-z0-9]+)(?:(=)|(\s+)|$)(.*)", re.DOTALL)
_SHORT_OPTION = re.compile(r"-([A-Za-z])(?:(=)|(\s+)|$)?(.*)", re.DOTALL)
_LONG_NAME_ONE_DASH = re.compile(r"-([A-Za-z]{2,})(?=[=\s]|$)")
_OPTION = re.compile(r"-[^-]|--[^-]")
_HIDDEN_SELECTION = re.compile(r"\s(?:--(?:db|collection|query|queryFile|uri|config)|-[dcq])(?=[=\s]|$)")
_RAW_QUERY = re.compile(r"(?:^|(?<=\s))(?:-q|--query)(?:=|\s*)(?=\{)")
_CONNECTION_STRING = re.compile(r"mongodb(?:\+srv)?://")


def _refuse_positional(argument: str) -> NoReturn:
    if argument[0] in "\u2013\u2014\u2212":
        raise BadInputError("a typographic dash stands where an option should begin")
    if argument.startswith(UNKNOWN):
        raise BadInputError("the command holds a shell variable where an option or a connection string should be")
    if _CONNECTION_STRING.match(argument):
        raise BadInputError("the command holds two connection strings")
    raise BadInputError("an argument belongs to no option; if it is part of a query, put the query in quotes")


def _refuse_unknown(argument: str) -> NoReturn:
    """Name an unknown option, but not a password that was glued to one."""
    if not argument.startswith("--"):
        raise BadInputError(f"unknown option -{speakable(argument[1])}")
    name = re.split(r"[=\s]", argument[2:], maxsplit=1)[0]
    known = max((option for option in _VALUED if name.startswith(option)), key=len, default=None)
    raise BadInputError(f"unknown option --{known}…" if known else f"unknown option --{speakable(name)}")


def read_options(arguments: Sequence[str]) -> dict[str, str]:
    """Read the ``SELECTING`` options among the arguments of mongoexport: by long name, each with its last value.

    >>> read_options(["-h=db1", "-psecret", "-d", "countly", "--ssl", "", "-d=countly_drill"])
    {'db': 'countly_drill'}
    """
    selecting: dict[str, str] = {}
    waiting = deque(arguments)
    positional_uri = False
    while waiting:
        argument = waiting.popleft()
        if not argument:
            continue
        if not _OPTION.match(argument):
            if _CONNECTION_STRING.match(argument) and not positional_uri:
                positional_uri = True
                uri = argument
            elif argument[0].isspace() and _OPTION.match(argument.lstrip()):
                _put_back(waiting, argument)
            else:
                _refuse_positional(argument)
            continue
        name, value = _read_option(argument, waiting)
        if name in SELECTING and value is not None:
            selecting[name] = value
    if positional_uri:
        if "uri" in selecting:
            raise BadInputError("a connection string is given twice, with --uri and on its own")
        selecting["uri"] = uri
    return selecting


def _read_option(argument: str, waiting: deque[str]) -> tuple[str, str | None]:
    """Read the option that ``argument`` begins with, and its value; what is fused to it goes back to ``waiting``."""
    if (wrong := _LONG_NAME_ONE_DASH.match(argument)) and wrong[1] in _VALUED | _FLAGS | _ENDING:
        raise BadInputError(f"-{wrong[1]} is written with one dash; mongoexport reads that as something else")
    is_long = argument.startswith("--")
    match = (_LONG_OPTION if is_long else _SHORT_OPTION).match(argument)
    if match is None:
        _refuse_unknown(argument)
    name, equals, space, rest = match.groups()
    attached = rest if equals or (rest and not space) else None
    if space and rest:
        if _long_name(name, is_long) == "query":
            waiting.appendleft(rest)
        else:
            _put_back(waiting, rest)
    if name == ("verbose" if is_long else "v"):
        if attached is not None and not _VERBOSITY.fullmatch(attached):
            raise BadInputError("the value of --verbose is not a level")
        return "verbose", None
    name = _long_name(name, is_long)
    if name in _VALUED:
        return name, _read_value(name, attached, waiting)
    if name in _FLAGS:
        if attached not in (None, "true", "false"):
            raise BadInputError(f"--{name} takes no value")
        if waiting and waiting[0] in ("true", "false"):
            waiting.popleft()
        return name, None
    if name in _ENDING:
        raise BadInputError(f"--{name} exports nothing")
    _refuse_unknown(argument)


def _long_name(name: str, is_long: bool) -> str:
    if is_long:
        return name
    return "slaveOk" if name in _SHORT_FLAGS else _SHORT_VALUED.get(name, "")


def _read_value(name: str, attached: str | None, waiting: deque[str]) -> str:
    if attached is None:
        if not waiting:
            raise BadInputError(f"--{name} has no value")
        attached = waiting.popleft()
        if _OPTION.match(attached) and not (name in _NUMERIC and attached[1:].isdigit()):
            raise BadInputError(
                f"--{name} has no value: an option follows (a value that begins with a dash is written --{name}=…)"
            )
    if name == "query":
        query, fused = _end_of_query(attached)
        _put_back(waiting, fused)
        return query
    if name in _ONE_WORD and re.search(r"\s-", attached):
        words = _words(attached)
        waiting.extendleft(reversed(words[1:]))
        return words[0] if words else ""
    if _HIDDEN_SELECTION.search(attached):
        raise BadInputError(f"the value of --{name} holds another option; give each its own argument")
    if name in ("host", "config") and _CONNECTION_STRING.match(attached):
        raise BadInputError(f"--{name} holds a connection string, which belongs to --uri")
    return attached


def _end_of_query(text: str) -> tuple[str, str]:
    """Split a query from the options that were fused to its end."""
    try:
        _, end = parse_prefix(text)
    except BadInputError:
        return text, ""  # it is an error only if no other --query follows
    return (text[:end], text[end:]) if text[end:].lstrip().startswith("-") else (text, "")


def _put_back(waiting: deque[str], fused: str) -> None:
    waiting.extendleft(reversed(_words(fused)))


def _words(fused: str) -> list[str]:
    """Split what is fused in one argument: as a shell would, but for a query that has no quotes around it."""
    raw_query = _RAW_QUERY.search(fused)
    commands = split_commands(fused[: raw_query.start()] if raw_query else fused)
    if len(commands) > 1:
        raise BadInputError("an argument holds more than one command")
    words = commands[0] if commands else []
    return [*words, f"--query={fused[raw_query.end() :]}"] if raw_query else words
