"""Asking for exports: what is asked for is checked against the formats and the catalogue before a row is made of it."""

import json
from collections.abc import Sequence

from export_pipeline.catalog.drift.check import DEFAULT_BUDGET, Budget, DriftReport, check_drift
from export_pipeline.catalog.narrowing import chosen_entries
from export_pipeline.encryption.age import parse_recipient
from export_pipeline.errors import BadInputError
from export_pipeline.formats.registry import checked_options, find_format
from export_pipeline.installation import Installation
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.slices.estimate import Estimate, estimate
from export_pipeline.slices.identity import checked_person
from export_pipeline.slices.plan import Wanted, make_plan
from export_pipeline.steps.passphrases import sealed

SEEN_FIELDS = "catalog/seen-fields.json"
"""Which fields the drift check has seen, by entry: names alone, no values."""


class Asking(Installation):
    """What can be done before there is a batch."""

    def submit(self, new: NewRequest, *, run_here: bool = False, passphrase: str | None = None) -> Request:
        """Insert a checked request. Raises BadInputError for what the formats or the catalogue do not allow.

        A passphrase waits, sealed, until the request has completed. See ``RequestStore.submit`` for when a request
        that exists is returned instead.
        """
        self.check(new)
        waiting = None if passphrase is None else sealed(passphrase, self.settings)
        return self.requests.submit(new, run_here=run_here, sealed_passphrase=waiting)

    def check(self, new: NewRequest) -> None:
        """Raise BadInputError for what the formats or the catalogue do not allow."""
        options = checked_options(find_format(new.format), new.options)
        for recipient in options.recipients:
            parse_recipient(recipient)
        chosen_entries(new.narrowing, self.catalog)
        if new.person is not None:
            if self.catalog.identity is None:
                raise BadInputError("person: the catalogue has no 'identity' to search; name the uids")
            checked_person(new.person, self.catalog.identity)

    def estimate(self, new: NewRequest) -> Estimate:
        """Return what an export would hold, without making one; nothing is stored. Raises what would make it fail."""
        self.check(new)
        wanted = Wanted("estimate", new.uids, new.person, new.max_users)
        plan, unplanned = make_plan(
            self.client, self.settings, self.catalog, "estimate", new.app_id, new.narrowing, [wanted]
        )
        for error in unplanned.values():
            raise error
        return estimate(self.client, self.settings, self.catalog, plan)

    def check_catalog(self, budget: Budget = DEFAULT_BUDGET, apps: Sequence[str] | None = None) -> DriftReport:
        """Compare the catalogue with the database; the fields seen are remembered for the next check."""
        seen: dict[str, list[str]] = {}
        if self.storage.exists(SEEN_FIELDS):
            with self.storage.open(SEEN_FIELDS) as file:
                seen = json.loads(file.read())
        report, seen_now = check_drift(self.client, self.settings, self.catalog, seen, budget, apps)
        with self.storage.create(SEEN_FIELDS) as pending:
            pending.write(json.dumps(seen_now).encode())
            pending.commit()
        return report
