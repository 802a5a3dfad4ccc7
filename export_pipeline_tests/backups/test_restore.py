"""Round trips: what is restored is what was backed up, byte for byte, with its indexes and options."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from click.testing import CliRunner
from pymongo import MongoClient

from export_pipeline.backups.content import UnorderedContent, content_sha256
from export_pipeline.backups.erase import Erasures
from export_pipeline.backups.manifest import (
    AppFilter,
    BackedUpCollection,
    BackupManifest,
    BackupOptions,
    PartFile,
    totals_of,
)
from export_pipeline.backups.parts import part_format, part_name
from export_pipeline.backups.restore import Restore, RestoreReport
from export_pipeline.backups.restore_plan import TargetRefusedError, Wish
from export_pipeline.backups.restore_source import BackupFolder, BackupRefusedError, find_backup
from export_pipeline.backups.restore_target import PROGRESS
from export_pipeline.backups.structure import read_structures
from export_pipeline.cli import main
from export_pipeline.demo.data import load_demo_data
from export_pipeline.demo.specimens import specimens
from export_pipeline.encryption.age import new_identity, parse_identities, parse_recipient
from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.exporter import Exporter
from export_pipeline.mongo.bson_stream import Piece, documents, whole_documents
from export_pipeline.packages.hashing import HashingSink
from export_pipeline.packages.layers import NO_KEYS, Keys, Layers, Lock
from export_pipeline.packages.manifest import CatalogUsed, PointInTime
from export_pipeline.settings import Settings
