"""Hooks: Python functions that compute the selector of a collection whose documents no single field ties to a uid.

A hook is code of the operator's, named in the catalogue; what it returns is checked like any filter from outside.
"""

import importlib
from collections.abc import Callable
from typing import Any

from export_pipeline.errors import BadInputError, CatalogError
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.filters import SELECTING_OPERATORS, checked_filter

Hook = Callable[[list[str], str], Any]
"""Takes one person's uids and the app id, returns a filter such as ``{"phone_hash": {"$in": [...]}}``."""


def load_hook(path: str) -> Hook:
    """Import the function that ``package.module:function`` names. Raises CatalogError."""
    module_name, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # noqa: BLE001  # foreign code runs when it is imported
        raise CatalogError(
            f"'{path}' cannot be imported ({type(error).__name__}); use 'package.module:function'"
        ) from None
    if not callable(function):
        raise CatalogError(f"'{path}' is not a function")
    hook: Hook = function
    return hook


def computed_selector(path: str, uids: list[str], app_id: str) -> Document:
    """Call a hook for one person. Raises CatalogError where it fails or selects by nothing."""
    hook = load_hook(path)
    try:
        given = hook(uids, app_id)
    except Exception as error:  # noqa: BLE001  # foreign code; its message may quote uids
        raise CatalogError(f"the hook {path} failed with {type(error).__name__}") from None
    try:
        selector = checked_filter(given, f"the hook {path}")
    except BadInputError as error:
        raise CatalogError(str(error)) from None
    if not selector:
        raise CatalogError(f"the hook {path} returned an empty filter, which would select everybody")
    if not any(_names_values(condition) for condition in selector.values()):
        raise CatalogError(
            f"the hook {path} must select by a value ({' or '.join(SELECTING_OPERATORS)}, and not null); "
            "what it returned would select other people"
        )
    return selector


def _names_values(condition: Document) -> bool:
    """Tell whether a condition holds only for documents with certain values; null is in all without the field."""
    named = [condition[operator] for operator in SELECTING_OPERATORS if operator in condition]
    return any(value is not None and (not isinstance(value, list) or None not in value) for value in named)
