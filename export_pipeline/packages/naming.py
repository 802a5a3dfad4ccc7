"""What a package's files are called: the manifest beside the file, and the parts of one that was split."""

import re
from pathlib import Path

from export_pipeline.formats.protocol import Format, WriteOptions
from export_pipeline.formats.registry import find_format, write_options
from export_pipeline.packages.layers import extension_of
from export_pipeline.packages.manifest import Manifest

MANIFEST = "manifest.json"
_PART = re.compile(r"\.part-[0-9]{5,}(?=\.|$)")


def manifest_name(name: str) -> str:
    """Return what the manifest beside the file ``name`` is called."""
    return f"{name}.{MANIFEST}"


def part_name(name: str, number: int, format_: Format, options: WriteOptions) -> str:
    """Return what a part of the file ``name`` is called: me.json becomes me.part-00000.json."""
    ending = f".{extension_of(format_, options)}"
    stem = name.removesuffix(ending)
    return f"{stem}.part-{number:05}{ending if stem != name else ''}"


def whole_name(name: str) -> str:
    """Return what the whole package is called, if ``name`` is a part of it, else ``name``.

    >>> whole_name("me.part-00003.json")
    'me.json'
    """
    return _PART.sub("", name)


def first_name(name: str, format_: Format, options: WriteOptions) -> str:
    """Return what the file, or its first part, is called."""
    return part_name(name, 0, format_, options) if options.split_bytes else name


def part_path(package: Path, manifest: Manifest, number: int) -> Path:
    """Return where a part is whose package, were it not split, would be the file ``package``."""
    options = write_options(manifest.options)
    if not options.split_bytes:
        return package
    return package.with_name(part_name(package.name, number, find_format(manifest.file.format), options))
