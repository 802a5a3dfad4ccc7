"""Reading a catalogue from YAML. Every mistake is an error that names the file and the line."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from export_pipeline.catalog.hooks import load_hook
from export_pipeline.catalog.model import Catalog, Entry, Identity, LoadedCatalog, Shared
from export_pipeline.errors import CatalogError

PACKAGED = Path(__file__).parent / "countly.yaml"

Location = tuple[int | str, ...]


class _Loader(yaml.SafeLoader):
    """A SafeLoader that also gives the line of what only looks like a date or a number, such as 2024-02-30."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except ValueError as error:
            raise yaml.MarkedYAMLError(problem=f"{error}; put text in quotes", problem_mark=node.start_mark) from error


def load_catalog(path: Path | None = None) -> LoadedCatalog:
    """Read and check a catalogue; the packaged one if ``path`` is None. Raises CatalogError."""
    path = path or PACKAGED
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CatalogError(
            f"catalogue {path}: {(error.strerror or 'cannot be read').lower()}; see EXPORT_PIPELINE_CATALOG"
        ) from None
    return parse_catalog(text, path)


def parse_catalog(text: bytes, path: Path) -> LoadedCatalog:
    """Check the text of a catalogue; ``path`` is what errors call it."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise CatalogError(f"catalogue {path} line {line}: {problem}") from None
    if root is None:
        raise CatalogError(f"catalogue {path} line 1: the file is empty; it needs 'version' and 'collections'")
    lines = dict(_lines(root, path))
    try:
        catalog = Catalog.model_validate(data)
    except ValidationError as error:
        raise CatalogError("\n".join(_explain(item, lines, path) for item in error.errors())) from None
    _check_unique(catalog.collections, lines, path)
    _check_hooks(catalog.collections, lines, path)
    _check_shared_unique(catalog.shared, lines, path)
    return LoadedCatalog(
        entries=catalog.collections,
        identity=catalog.identity,
        shared=catalog.shared,
        version=catalog.version,
        sha256=hashlib.sha256(text).hexdigest(),
        path=path,
    )


def _lines(node: yaml.Node, path: Path, at: Location = ()) -> Iterator[tuple[Location, int]]:
    """Yield the line of each value in the document, by its location; refuse keys that are given twice."""
    yield at, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise CatalogError(f'catalogue {path} line {key.start_mark.line + 1}: "{key.value}" is given twice')
            seen.add(key.value)
            yield from _lines(value, path, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, path, (*at, index))


def _explain(error: ErrorDetails, lines: Mapping[Location, int], path: Path) -> str:
    location = error["loc"]
    line = next(lines[location[:end]] for end in range(len(location), -1, -1) if location[:end] in lines)
    where = f"catalogue {path} line {line}"
    name = next((part for part in reversed(location) if isinstance(part, str)), None)
    if error["type"] == "missing":
        return f'{where}: "{name}" is missing; {_description(location)}'
    if error["type"] == "extra_forbidden":
        return (
            f'{where}: "{name}" is not a field of the catalogue; known are {", ".join(_model(location).model_fields)}'
        )
    message = "expected a list" if error["type"] == "tuple_type" else error["msg"].removeprefix("Value error, ")
    return f'{where}: "{name}": {message}' if name else f"{where}: {message}"


def _description(location: Location) -> str | None:
    return _model(location).model_fields[str(location[-1])].description


def _model(location: Location) -> type[Entry | Shared | Identity | Catalog]:
    return _MODELS[location[0]] if len(location) > 1 else Catalog


_MODELS: dict[int | str, type[Entry | Shared | Identity]] = {
    "collections": Entry,
    "shared": Shared,
    "identity": Identity,
}


def _check_unique(entries: tuple[Entry, ...], lines: Mapping[Location, int], path: Path) -> None:
    for field in ("name", "collection"):
        seen: dict[str, int] = {}
        for index, entry in enumerate(entries):
            value = getattr(entry, field)
            line = lines["collections", index, field]
            if value in seen:
                # The collection's name is the tag of its documents, so it must not stand for two of them.
                raise CatalogError(
                    f'catalogue {path} line {line}: "{field}" {value} is already used in line {seen[value]}'
                )
            seen[value] = line


def _check_shared_unique(shared: tuple[Shared, ...], lines: Mapping[Location, int], path: Path) -> None:
    seen: dict[tuple[str | None, str], int] = {}
    for index, each in enumerate(shared):
        line = lines["shared", index, "collection"]
        at = (each.database, each.collection)
        if at in seen:
            raise CatalogError(
                f'catalogue {path} line {line}: "collection" {each.collection} is already used in line {seen[at]}'
            )
        seen[at] = line


def _check_hooks(entries: tuple[Entry, ...], lines: Mapping[Location, int], path: Path) -> None:
    for index, entry in enumerate(entries):
        if entry.hook is not None:
            try:
                load_hook(entry.hook)
            except CatalogError as error:
                line = lines["collections", index, "hook"]
                raise CatalogError(f'catalogue {path} line {line}: "hook": {error}') from None
