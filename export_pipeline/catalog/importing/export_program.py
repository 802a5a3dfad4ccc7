"""Finding mongoexport in a command: behind ``docker exec``, ``sudo``, ``sh -c`` and their like, or between pipes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from export_pipeline.catalog.importing.shell_words import split_commands
from export_pipeline.errors import BadInputError


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """How a program that starts another one is called: its options, its operands, then the other program."""

    operands: int = 0
    valued: frozenset[str] = frozenset()  # options that take the next word as their value
    script: bool = False  # -c takes a shell script


def _wrapper(operands: int = 0, valued: str = "", *, script: bool = False) -> _Wrapper:
    return _Wrapper(operands, frozenset(valued.split()), script)


_CONTAINER = _wrapper(
    2,
    "-e --env --env-file -u --user -w --workdir --detach-keys -v --volume --mount --network --name --index "
    "--link -f --file --project-directory --profile -H --host --context -c",
)
_KUBERNETES = _wrapper(2, "-n --namespace -c --container --context --cluster --kubeconfig --user -s --server")
_SHELL = _wrapper(valued="-o -eo -euo -euxo", script=True)
_WRAPPERS = {
    "docker": _CONTAINER,
    "docker container": _CONTAINER,
    "docker compose": _CONTAINER,
    "docker-compose": _CONTAINER,
    "podman": _CONTAINER,
    "kubectl": _KUBERNETES,
    "oc": _KUBERNETES,
    "sudo": _wrapper(valued="-u --user -g --group -h --host -p --prompt -C -D -R -r -t -T -U"),
    "doas": _wrapper(valued="-u -C"),
    "su": _wrapper(1, "-s --shell -g --group", script=True),
    "runuser": _wrapper(valued="-u --user -g --group", script=True),
    "gosu": _wrapper(1),
    "su-exec": _wrapper(1),
    "chroot": _wrapper(1),
    "env": _wrapper(valued="-u --unset -C --chdir"),
    "nice": _wrapper(valued="-n --adjustment"),
    "ionice": _wrapper(valued="-c --class -n --classdata"),
    "nohup": _wrapper(),
    "setsid": _wrapper(),
    "exec": _wrapper(),
    "command": _wrapper(),
    "time": _wrapper(valued="-f --format -o --output"),
    "timeout": _wrapper(1, "-s --signal -k --kill-after"),
    "stdbuf": _wrapper(valued="-i --input -o --output -e --error"),
    "flock": _wrapper(1, "-w --timeout --wait -E --conflict-exit-code", script=True),
    "ssh": _wrapper(1, "-b -c -D -E -e -F -i -J -L -l -m -o -p -R -S -W -w"),
    **dict.fromkeys(["sh", "bash", "dash", "ash", "zsh", "ksh"], _SHELL),
}
_MAX_NESTING = 6
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[/\\]")
_SCRIPT_OPTION = re.compile(r"-[a-z]*c|--command")


def arguments_in_line(line: str) -> list[str]:
    """Return the arguments of the one mongoexport in a shell line.

    >>> arguments_in_line("sudo -u mongodb nice -n 10 /usr/bin/mongoexport -d countly | gzip > x.gz")
    ['-d', 'countly']
    """
    return _only(_in_line(line, _MAX_NESTING))


def arguments_in_words(words: Sequence[str]) -> list[str]:
    """Return the arguments of mongoexport in a command that is split into words already."""
    return _only(_in_words(words, _MAX_NESTING))


def _only(found: list[list[str]]) -> list[str]:
    if not found:
        raise BadInputError("not mongoexport: the command starts another program, or none that can be made out")
    if len(found) > 1:
        raise BadInputError("the command holds more than one mongoexport")
    return found[0]


def _in_line(line: str, nesting: int) -> list[list[str]]:
    return [found for words in split_commands(line) for found in _in_words(words, nesting)]


def _in_words(words: Sequence[str], nesting: int) -> list[list[str]]:
    """Find the arguments of each mongoexport that a simple command starts, itself or through wrappers."""
    if nesting == 0:
        return []
    rest = list(words)
    while rest and _ASSIGNMENT.match(rest[0]):
        del rest[0]
    if not rest:
        return []
    name = _name(rest.pop(0))
    if name == "mongoexport":
        return [rest]
    if rest and f"{name} {rest[0]}" in _WRAPPERS:
        name = f"{name} {rest.pop(0)}"
    wrapper = _WRAPPERS.get(name)
    if wrapper is None:
        return []
    operands = wrapper.operands
    while rest:
        word = rest[0]
        if wrapper.script and _SCRIPT_OPTION.fullmatch(word):
            return _in_line(rest[1], nesting - 1) if len(rest) > 1 else []
        if word.startswith("-"):
            del rest[: 2 if word in wrapper.valued or _last_of(word) in wrapper.valued else 1]
        elif operands:
            operands -= 1
            del rest[0]
        elif name == "ssh" and len(rest) == 1:  # the far side's shell takes it apart
            return _in_line(word, nesting - 1)
        else:
            return _in_words(rest, nesting - 1)
    return []


def _last_of(word: str) -> str | None:
    """Return the last of several short options in one word: only that one can have a value, as in -itu root."""
    return f"-{word[-1]}" if re.fullmatch(r"-[A-Za-z]{2,4}", word) else None


def is_program(word: str) -> bool:
    """Tell a program from a line that begins with one; only on Windows a path is likely to hold spaces."""
    return not re.search(r"\s", word) or bool(_WINDOWS_PATH.match(word) and not re.search(r"\s-", word))


def _name(program: str) -> str:
    """Return the name of a program without its folder, and without what Windows adds."""
    return re.split(r"[/\\]", program)[-1].removesuffix(".exe") if is_program(program) else ""
