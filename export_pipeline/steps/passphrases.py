"""Passphrases between a request and its package: they wait in the requests table's database, sealed."""

from export_pipeline.errors import BadInputError
from export_pipeline.requests.secrets import SecretStore, seal, unseal
from export_pipeline.settings import Settings


def sealed(passphrase: str, settings: Settings) -> str:
    """Return the passphrase as it may wait. Raises BadInputError where no key to seal it with is set."""
    return seal(passphrase, _key(settings))


def kept(request_id: str, secrets: SecretStore, settings: Settings) -> str | None:
    """Return the passphrase that waits for a request's package; None where none does."""
    waiting = secrets.find(request_id)
    return None if waiting is None else unseal(waiting, _key(settings))


def _key(settings: Settings) -> str:
    if settings.secret_key is None:
        raise BadInputError(
            "a passphrase waits in the requests table until its export is made, sealed with "
            "EXPORT_PIPELINE_SECRET_KEY: set that, or encrypt to a recipient's public key"
        )
    return settings.secret_key.get_secret_value()
