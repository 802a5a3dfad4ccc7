"""Shell lines as words, read the way a POSIX shell reads them, but never run.

A shell would put something else in the place of ``$NAME``, ``$(date)`` or a backtick. What it would put there is not
known here, so the word gets ``UNKNOWN`` in that place and the reader of the words decides whether that matters.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from export_pipeline.errors import BadInputError

UNKNOWN = "\0"  # no argument of a program can hold a NUL, so it cannot be mistaken for text

_TOKEN = re.compile(
    r"""
      (?P<continuation> \\\n)
    | (?P<space>        [ \t\r]+)
    | (?P<single>       '[^']*')
    | (?P<double>       "(?:[^"\\]|\\.)*")
    | (?P<escaped>      \\.)
    | (?P<expansion>    \$\((?:[^()'"`\\]|\\.)*\) | \$\{[^{}]*\} | \$[A-Za-z_]\w* | \$[0-9@*#?$!-] | \$'(?:[^'\\]|\\.)*'
                      | `(?:[^`\\]|\\.)*`)
    | (?P<refused>      \$\( | \$\{ | ` | << | [<>]\( | [()])
    | (?P<redirection>  &>>? | >>|>\||>&|<&|[<>])
    | (?P<separator>    &&|\|\||;;|\|&|[;|&\n])
    | (?P<plain>        [^\s'"\\$`&|;<>()\#]+ | [\#$])
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_DOUBLE_QUOTES = re.compile(
    r"""\\\n | \\(?P<escaped>["\\$`]) | (?P<operator>\$[A-Za-z]+)(?!\w)
      | (?P<expansion>\$\([^()]*\) | \$\{[^{}]*\} | \$\w+ | \$[@*\#?$!-] | `[^`]*`) | (?P<refused>\$\( | \$\{ | `)""",
    re.VERBOSE,
)
# A shell would empty "$in", but cmd.exe would not, and nobody means a variable of that name.
_OPERATOR_NAMES = """
$in $eq $or $and $nin $ne $not $nor $gt $gte $lt $lte $exists $elemMatch $regex $where $expr $function
$oid $numberInt $numberLong
"""
_QUERY_OPERATORS = frozenset(_OPERATOR_NAMES.split())
_LONGEST_QUOTE = 100  # lines
_WINDOWS_PROGRAM = re.compile(r"\s*[A-Za-z]:\\[^\s\"']*")


@dataclass(slots=True)
class _Commands:
    """The words read so far; the last command and its last word may still grow."""

    commands: list[list[str]] = field(default_factory=lambda: [[]])
    word: str | None = None
    bare: str = ""  # the part of the word that stood outside of quotes
    redirects: bool = False  # the word being read names a file of a redirection

    def add(self, text: str, bare: str = "") -> None:
        self.word = (self.word or "") + text
        self.bare += bare

    def end_word(self) -> None:
        if self.word is None:
            return
        if "{" in self.bare and "}" in self.bare and ("," in self.bare or ".." in self.bare):
            raise BadInputError("the shell would take the braces apart; put quotes around the query")
        if not self.redirects:
            self.commands[-1].append(self.word)
        self.word, self.bare, self.redirects = None, "", False

    def redirect(self) -> None:
        if self.word is not None and self.word == self.bare and self.word.isdigit():
            self.word, self.bare = None, ""  # the number of a file descriptor, as in 2>&1
        self.end_word()
        self.redirects = True

    def end_command(self) -> None:
        self.end_word()
        self.redirects = False
        self.commands.append([])


def split_commands(text: str) -> list[list[str]]:
    r"""Split a shell line into its simple commands, each a list of words; redirections and comments are gone.

    >>> split_commands('''cd /tmp && mongoexport -q '{"uid":"1a"}' --out "$DIR/x" 2>&1 | gzip > x.gz  # nightly''')
    [['cd', '/tmp'], ['mongoexport', '-q', '{"uid":"1a"}', '--out', '\x00/x'], ['gzip']]
    """
    if UNKNOWN in text:
        raise BadInputError("the command holds a NUL character")
    read = _Commands()
    position = 0
    if program := _WINDOWS_PROGRAM.match(text):
        read.add(program[0].strip())
        position = program.end()
    while position < len(text):
        if text[position] == "#" and read.word is None:
            position = text.find("\n", position) if "\n" in text[position:] else len(text)
            continue
        token = _TOKEN.match(text, position)
        if token is None:
            raise BadInputError(
                "the command ends with a backslash" if text[position] == "\\" else "a quote is never closed"
            )
        position = token.end()
        match token.lastgroup:
            case "space":
                read.end_word()
            case "single":
                read.add(token[0][1:-1])
            case "double":
                read.add(_inside_double_quotes(token[0][1:-1]))
            case "escaped":
                read.add(token[0][1])
            case "expansion":
                read.add(UNKNOWN)
            case "refused":
                raise BadInputError("a subshell, a here-document or a nested command substitution is not read")
            case "redirection":
                read.redirect()
            case "separator":
                read.end_command()
            case "plain":
                read.add(token[0], bare=token[0])
    read.end_command()
    return [words for words in read.commands if words]


def _inside_double_quotes(text: str) -> str:
    return _IN_DOUBLE_QUOTES.sub(_resolve, text)


def _resolve(match: re.Match[str]) -> str:
    match match.lastgroup:
        case "escaped":
            return match["escaped"]
        case "operator":
            return match[0] if match[0] in _QUERY_OPERATORS else UNKNOWN
        case "expansion":
            return UNKNOWN
        case "refused":
            raise BadInputError("a nested command substitution is not read")
        case _:
            return ""


def logical_lines(text: str) -> list[tuple[int, str]]:
    """Split a script into its commands, one per line, each with the number of its first line.

    A backslash at its end takes in the next line. So does an open quote, as in a shell, unless the quote is never
    closed or would swallow another mongoexport: then the mistake stays with the line that made it.
    """
    lines = text.split("\n")
    found: list[tuple[int, str]] = []
    end = 0
    while end < len(lines):
        first, end = end, end + 1
        if lines[first].strip() and not lines[first].lstrip().startswith("#"):
            end = _end_of_command(lines, first)
            found.append((first + 1, "\n".join(lines[first:end])))
    return found


def _end_of_command(lines: Sequence[str], first: int) -> int:
    """Return the place behind the last line of the command that begins at ``first``."""
    text, end = lines[first], first + 1
    without_quote = None  # where it ends if its open quote turns out to be a mistake
    while end < len(lines):
        if not _ends_with_backslash(text):
            if not _has_open_quote(text):
                return end
            without_quote = without_quote or end
            if "mongoexport" in lines[end] or end - first > _LONGEST_QUOTE:
                return without_quote
        text, end = f"{text}\n{lines[end]}", end + 1
    return without_quote if without_quote and _has_open_quote(text) else end


def _ends_with_backslash(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _has_open_quote(line: str) -> bool:
    rest = re.sub(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"|\\.|(?<![^\s;&|])#[^\n]*", "", line, flags=re.DOTALL)
    return "'" in rest or '"' in rest
