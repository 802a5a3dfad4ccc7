"""What the catalogue says of a collection. The descriptions are what an author reads when a field is wrong."""

import re
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

APP_ID = "{app_id}"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
_LONGEST = 150
_FORBIDDEN = set('$"{}\\')  # what MongoDB forbids, and what would need escaping where the name is a tag in JSON


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("use a lower-case letter, then lower-case letters, digits or '_'")
    return name


def _checked_collection(collection: str) -> str:
    if collection.count(APP_ID) != 1:
        raise ValueError(f"it must hold {APP_ID} exactly once, or one app's export would read another app's data")
    rest = collection.replace(APP_ID, "")
    if rest.startswith("system.") or set(rest) & _FORBIDDEN or not rest.isprintable() or len(rest) > _LONGEST:
        raise ValueError("it is not a plain name of a collection")
    return collection


def _checked_shared(collection: str) -> str:
    if APP_ID in collection:
        raise ValueError(f"a shared collection has the same name for all apps, without {APP_ID}")
    if (
        not collection
        or collection.startswith("system.")
        or set(collection) & _FORBIDDEN
        or not collection.isprintable()
        or len(collection) > _LONGEST
    ):
        raise ValueError("it is not a plain name of a collection")
    return collection


def _checked_database(database: str) -> str:
    if not database or len(database) > 60 or set(database) & set('/\\. "$\0'):
        raise ValueError("it is not a name that MongoDB allows for a database")
    return database


def _checked_path(path: str) -> str:
    for part in path.split("."):
        if not part or part.startswith("$") or "\0" in part:
            raise ValueError("it is not a field's path, such as 'uid' or 'respondent.uid'")
        if part.isdecimal():
            raise ValueError("a path must not name an array's position; leave the number out")
    return path


def _checked_not_empty(entries: "tuple[Entry, ...]") -> "tuple[Entry, ...]":
    if not entries:
        raise ValueError("it must list at least one collection")
    return entries


Mask = Literal["hash", "last4", "drop"]
"""How other people's data is made unreadable; ``slices.redact`` says what each does."""

Name = Annotated[str, AfterValidator(_checked_name)]
FieldPath = Annotated[str, AfterValidator(_checked_path)]


class Entry(BaseModel):
    """One plugin collection."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name = Field(description="it names the asset, for instance 'crash_users'")
    plugin: Name = Field(description="it names the plugin that owns the collection, for instance 'crashes'")
    collection: Annotated[str, AfterValidator(_checked_collection)] = Field(
        description="it is the collection's name with the app id as {app_id}, for instance 'app_crashusers{app_id}'"
    )
    database: Annotated[str, AfterValidator(_checked_database)] | None = Field(
        None, description="it is the collection's database, where that is not EXPORT_PIPELINE_MONGO_DATABASE"
    )
    user_key: FieldPath | None = Field(None, description="it names the field that holds the uid, for instance 'uid'")
    key_holds: Literal["uid", "device_id"] = Field("uid", description="it says what user_key holds: uid or device_id")
    hook: str | None = Field(
        None,
        description="it names a Python function that computes the selector, for instance 'my_package.hooks:by_phone'",
    )
    time_field: FieldPath | None = Field(None, description="it names the field that holds the document's time")
    time_unit: Literal["s", "ms", "date"] | None = Field(
        None, description="it is the unit of time_field: s, ms or date"
    )
    append_only: bool = Field(
        False,
        description="it says whether documents are only ever added, each with the time of that moment in time_field",
    )
    events: bool = Field(
        False, description="it says whether these are the app's events, which the HTTP API hands over whole"
    )
    category: str | None = Field(None, description="it is the category of personal data, for instance 'diagnostics'")
    purpose: str | None = Field(None, description="it is what the data is processed for, in a person's words")
    retention: str | None = Field(None, description="it says for how long the data is kept, in a person's words")
    source: str | None = Field(None, description="it says where the data comes from, in a person's words")
    portable: bool = Field(True, description="it says whether the person provided the data or was observed in it")
    exclude: tuple[FieldPath, ...] = Field((), strict=False, description="it lists the fields that never leave")
    mask: dict[FieldPath, Mask] = Field(
        {}, description="it says how to mask other people's data, by field: hash, last4 or drop"
    )

    @model_validator(mode="after")
    def _check_together(self) -> "Entry":
        if self.user_key is None and self.hook is None:
            raise ValueError(f'"user_key" is missing; {Entry.model_fields["user_key"].description}')
        if self.user_key is not None and self.hook is not None:
            raise ValueError("user_key and hook exclude each other; one of them finds the documents")
        if (self.time_field is None) != (self.time_unit is None):
            raise ValueError("time_field and time_unit go together")
        if self.append_only and self.time_field is None:
            raise ValueError("append_only needs time_field, which tells what was added since the last backup")
        for path in self.exclude:
            if path == "_id" or (self.user_key is not None and _covers(path, self.user_key)):
                raise ValueError(f"exclude: '{path}' cannot be left out, since it says whose document it is")
        if "_id" in self.mask:
            raise ValueError("mask: '_id' cannot be masked, since it tells documents apart")
        redacted = [*self.exclude, *self.mask]
        for position, path in enumerate(redacted):
            if any(_covers(other, path) for other in redacted[:position] + redacted[position + 1 :]):
                raise ValueError(f"'{path}' lies inside another excluded or masked field; name only the outer one")
        return self

    def collection_of(self, app_id: str) -> str:
        """Return the collection's full name for an app."""
        return self.collection.replace(APP_ID, app_id)


class Identity(BaseModel):
    """Where the product keeps who its people are: the collection that a filter searches, and what belongs to one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    collection: Annotated[str, AfterValidator(_checked_collection)] = Field(
        description="it is the collection of people with the app id as {app_id}, for instance 'app_users{app_id}'"
    )
    uid: FieldPath = Field(description="it names the field with a person's uid")
    merged_uids: FieldPath | None = Field(None, description="it names the field with the uids merged into a person")
    device_ids: FieldPath | None = Field(None, description="it names the field with a person's device ids")
    search: tuple[str, ...] = Field(
        (), strict=False, description="it lists the fields that a filter may name; 'custom.*' stands for all inside"
    )

    def may_search(self, path: str) -> bool:
        """Tell whether a filter may name ``path``."""
        return any(
            path == allowed or (allowed.endswith(".*") and path.startswith(allowed[:-1])) for allowed in self.search
        )


class Shared(BaseModel):
    """A collection that all apps share; a backup of an app takes the documents that name it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    collection: Annotated[str, AfterValidator(_checked_shared)] = Field(
        description="it is the collection's name, for instance 'apps'"
    )
    database: Annotated[str, AfterValidator(_checked_database)] | None = Field(
        None, description="it is the collection's database, where that is not EXPORT_PIPELINE_MONGO_DATABASE"
    )
    app_key: FieldPath = Field(description="it names the field that holds the app id, for instance 'app_id'")
    key_type: Literal["string", "objectId"] = Field(
        "string", description="it is how the app id is stored there: string or objectId"
    )


class Catalog(BaseModel):
    """All entries, in the order in which a package holds them, and where they were read from."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = Field(description="it is the version of this file's layout: 1")
    identity: Identity | None = Field(None, description="it says where the product keeps who its people are")
    collections: Annotated[tuple[Entry, ...], AfterValidator(_checked_not_empty)] = Field(
        strict=False, description="it lists the collections that hold a user's data"
    )
    shared: tuple[Shared, ...] = Field(
        (), strict=False, description="it lists the collections that apps share, for backups"
    )


class LoadedCatalog(BaseModel):
    """A catalogue with its origin, which the manifest names."""

    model_config = ConfigDict(frozen=True)

    entries: tuple[Entry, ...]
    identity: Identity | None
    shared: tuple[Shared, ...] = ()
    version: int
    sha256: str
    path: PurePath

    def entry(self, name: str) -> Entry:
        """Return the entry called ``name``; the name must exist."""
        return next(entry for entry in self.entries if entry.name == name)


def _covers(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(f"{outer}.")
