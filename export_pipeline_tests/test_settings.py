"""Each setting from its environment variable, and what an operator gets to see of it."""

from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from export_pipeline.errors import BadInputError
from export_pipeline.settings import Settings, environment_variable


def value_of(field: str, settings: Settings) -> object:
    value = getattr(settings, field)
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def test_the_defaults() -> None:
    settings = Settings.load()
    here = Path.cwd() / ".export_pipeline"
    assert value_of("mongo_uri", settings) == "mongodb://127.0.0.1:27017"
    assert settings.mongo_database == "countly"
    assert settings.catalog is None
    assert settings.requests_database == f"sqlite:///{here}/requests.db"
    assert settings.storage_root == f"{here}/exports"
    assert settings.batch_size == 500
    assert settings.retention == timedelta(days=7)
    assert settings.require_point_in_time is True


TAKEN = [
    ("DAGSTER_HOME", "/srv/dagster", "home", Path("/srv/dagster")),
    ("EXPORT_PIPELINE_MONGO_URI", "mongodb://db:1/", "mongo_uri", "mongodb://db:1/"),
    ("EXPORT_PIPELINE_MONGO_DATABASE", "shop", "mongo_database", "shop"),
    ("EXPORT_PIPELINE_CATALOG", "/etc/mine.yaml", "catalog", Path("/etc/mine.yaml")),
    ("EXPORT_PIPELINE_REQUESTS_URL", "postgresql://db/r", "requests_url", "postgresql://db/r"),
    ("EXPORT_PIPELINE_REQUESTS_URL", "postgresql://db/r", "requests_database", "postgresql://db/r"),
    ("EXPORT_PIPELINE_STORAGE", "s3://bucket/exports", "storage", "s3://bucket/exports"),
    ("EXPORT_PIPELINE_STORAGE", "/srv/exports", "storage_root", "/srv/exports"),
    ("EXPORT_PIPELINE_S3_ENDPOINT_URL", "https://s3.example", "s3_endpoint_url", "https://s3.example"),
    ("EXPORT_PIPELINE_S3_REGION", "eu-central-1", "s3_region", "eu-central-1"),
    ("EXPORT_PIPELINE_S3_SSE", "aws:kms", "s3_sse", "aws:kms"),
    ("EXPORT_PIPELINE_S3_SSE_KMS_KEY_ID", "1234", "s3_sse_kms_key_id", "1234"),
    ("EXPORT_PIPELINE_SECRET_KEY", 32 * "k", "secret_key", 32 * "k"),
    ("EXPORT_PIPELINE_ENCODER_PROCESSES", "16", "encoder_processes", 16),
    ("EXPORT_PIPELINE_BATCH_SIZE", "20", "batch_size", 20),
    ("EXPORT_PIPELINE_RETENTION", "30", "retention", timedelta(days=30)),
    ("EXPORT_PIPELINE_RETENTION", "0.5", "retention", timedelta(hours=12)),
    ("EXPORT_PIPELINE_RETENTION", "P1DT6H", "retention", timedelta(hours=30)),
    ("EXPORT_PIPELINE_RUN_RETENTION", "90", "run_retention", timedelta(days=90)),
    ("EXPORT_PIPELINE_DUE_SOON", "0", "due_soon", timedelta(0)),
    ("EXPORT_PIPELINE_DUE_SOON", "P3D", "due_soon", timedelta(days=3)),
    ("EXPORT_PIPELINE_REQUIRE_POINT_IN_TIME", "false", "require_point_in_time", False),
    ("EXPORT_PIPELINE_METRICS_OPEN", "true", "metrics_open", True),
    ("EXPORT_PIPELINE_READ_TIMEOUT", "90", "read_timeout", timedelta(seconds=90)),
    ("EXPORT_PIPELINE_READ_TIMEOUT", "PT2M", "read_timeout", timedelta(minutes=2)),
    ("EXPORT_PIPELINE_CONCURRENT_READS", "1", "concurrent_reads", 1),
    ("EXPORT_PIPELINE_MAX_CACHE_DIRTY", "0.05", "max_cache_dirty", 0.05),
    ("EXPORT_PIPELINE_MAX_CACHE_USED", "0", "max_cache_used", 0.0),
    ("EXPORT_PIPELINE_MAX_REPLICATION_LAG", "0", "max_replication_lag", timedelta(0)),
    ("EXPORT_PIPELINE_MAX_PAUSE", "PT1H", "max_pause", timedelta(hours=1)),
    ("EXPORT_PIPELINE_PUBLIC_URL", "https://exports.example/api", "public_url", "https://exports.example/api"),
    ("EXPORT_PIPELINE_POLL_AFTER", "0.5", "poll_after", timedelta(milliseconds=500)),
    ("EXPORT_PIPELINE_MAX_BODY_BYTES", "2048", "max_body_bytes", 2048),
    (
        "EXPORT_PIPELINE_CORS_ORIGINS",
        "https://a.example/, http://b:8080",
        "cors_origins",
        ("https://a.example", "http://b:8080"),
    ),
    ("EXPORT_PIPELINE_TOKEN_RATE_LIMIT", "1", "token_rate_limit", 1),
    ("EXPORT_PIPELINE_APP_RATE_LIMIT", "2", "app_rate_limit", 2),
    ("EXPORT_PIPELINE_ANONYMOUS_RATE_LIMIT", "3", "anonymous_rate_limit", 3),
    ("EXPORT_PIPELINE_SMTP_HOST", "mail.example", "smtp_host", "mail.example"),
    ("EXPORT_PIPELINE_SMTP_PORT", "25", "smtp_port", 25),
    ("EXPORT_PIPELINE_SMTP_USER", "exports", "smtp_user", "exports"),
    ("EXPORT_PIPELINE_SMTP_PASSWORD", "hunter2", "smtp_password", "hunter2"),
    ("EXPORT_PIPELINE_SMTP_STARTTLS", "off", "smtp_starttls", False),
    ("EXPORT_PIPELINE_MAIL_FROM", "Exports <a@b.example>", "mail_from", "Exports <a@b.example>"),
    ("EXPORT_PIPELINE_MAIL_TEMPLATES", "/etc/mails", "mail_templates", Path("/etc/mails")),
    ("EXPORT_PIPELINE_WEBHOOK_SECRET", 32 * "w", "webhook_secret", 32 * "w"),
    ("EXPORT_PIPELINE_WEBHOOK_PRIVATE", "true", "webhook_private", True),
]


@pytest.mark.parametrize(("variable", "text", "field", "value"), TAKEN)
def test_each_variable(variable: str, text: str, field: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    assert value_of(field, Settings.load()) == value


def test_everything_follows_dagster_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    settings = Settings.load()
    assert settings.requests_database == f"sqlite:///{tmp_path}/requests.db"
    assert settings.storage_root == f"{tmp_path}/exports"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT_PIPELINE_MONGO_DATABASE", "")
    assert Settings.load().mongo_database == "countly"


REFUSED = [
    ("s3_sse", "DES", "'AES256' or 'aws:kms'"),
    ("secret_key", 31 * "k", "at least 32"),
    ("encoder_processes", "0", "greater than or equal to 1"),
    ("encoder_processes", "17", "less than or equal to 16"),
    ("batch_size", "0", "greater than or equal to 1"),
    ("batch_size", "10001", "less than or equal to 10000"),
    ("batch_size", "many", "valid integer"),
    ("retention", "a week", "valid timedelta"),
    ("retention", "-1", "greater than 0"),
    ("retention", "inf", "valid timedelta"),
    ("retention", "1e12", "valid timedelta"),
    ("retention", "40000", "less than or equal to 36500 days"),
    ("run_retention", "0", "greater than 0"),
    ("run_retention", "40000", "less than or equal to 36500 days"),
    ("due_soon", "-1", "greater than or equal to 0"),
    ("due_soon", "31", "less than or equal to 30 days"),
    ("require_point_in_time", "maybe", "valid boolean"),
    ("metrics_open", "maybe", "valid boolean"),
    ("read_timeout", "0", "greater than or equal to"),
    ("read_timeout", "3000000", "less than or equal to 24 days"),
    ("concurrent_reads", "0", "greater than or equal to 1"),
    ("concurrent_reads", "257", "less than or equal to 256"),
    ("max_cache_dirty", "-0.1", "greater than or equal to 0"),
    ("max_cache_dirty", "20", "less than or equal to 1"),
    ("max_cache_dirty", "nan", "less than or equal to 1"),
    ("max_cache_used", "95 %", "valid number"),
    ("max_cache_used", "1.1", "less than or equal to 1"),
    ("max_replication_lag", "-1", "greater than or equal to 0"),
    ("max_replication_lag", "a minute", "valid timedelta"),
    ("max_pause", "-1", "greater than or equal to 0"),
    ("public_url", "exports.example", "should match pattern"),
    ("public_url", "https://exports.example/?a=b", "should match pattern"),
    ("poll_after", "-1", "greater than or equal to 0"),
    ("poll_after", "3601", "less than or equal to 1 hour"),
    ("max_body_bytes", "1023", "greater than or equal to 1024"),
    ("cors_origins", "*", "expected origins"),
    ("cors_origins", "https://a.example,,https://b.example", "expected origins"),
    ("token_rate_limit", "0", "greater than or equal to 1"),
    ("app_rate_limit", "0", "greater than or equal to 1"),
    ("anonymous_rate_limit", "0", "greater than or equal to 1"),
    ("smtp_port", "0", "greater than or equal to 1"),
    ("smtp_port", "65536", "less than or equal to 65535"),
    ("smtp_starttls", "tls", "valid boolean"),
    ("webhook_secret", 31 * "w", "at least 32"),
    ("webhook_private", "maybe", "valid boolean"),
]

CHECKED_BY_WHO_USES_THEM = {
    *("home", "mongo_uri", "mongo_database", "catalog", "requests_url", "storage", "s3_endpoint_url", "s3_region"),
    *("s3_sse_kms_key_id", "smtp_host", "smtp_user", "smtp_password", "mail_from", "mail_templates"),
}
"""Any text is a path, a name or a password; where it is opened, it has to be a good one."""


def test_every_setting_has_its_rows() -> None:
    fields = set(Settings.model_fields)
    assert {
        field for variable, _, field, _ in TAKEN if field in fields and variable == environment_variable(field)
    } == fields
    assert {field for field, _, _ in REFUSED} == fields - CHECKED_BY_WHO_USES_THEM


@pytest.mark.parametrize(("field", "text", "reason"), REFUSED)
def test_a_bad_value_names_its_variable(field: str, text: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = environment_variable(field)
    monkeypatch.setenv(variable, text)
    with pytest.raises(BadInputError, match=rf"^{variable}: .*{reason}"):
        Settings.load()


def test_all_bad_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT_PIPELINE_BATCH_SIZE", "0")
    monkeypatch.setenv("EXPORT_PIPELINE_RETENTION", "soon")
    with pytest.raises(BadInputError, match=r"EXPORT_PIPELINE_BATCH_SIZE: .*; EXPORT_PIPELINE_RETENTION: "):
        Settings.load()


def test_every_setting_says_what_it_is_and_can_be_shown() -> None:
    settings = Settings.load()
    for field, about in Settings.model_fields.items():
        assert about.description
        assert settings.shown(field)
    assert settings.shown("catalog") == "packaged countly.yaml"
    assert settings.shown("retention") == "7 days, 0:00:00"


SECRETS = st.text(st.characters(codec="utf-8"), min_size=4).map(lambda text: f"s3cr3t{text}s3cr3t")


@given(SECRETS)
@example("s3cr3t@s3cr3t")
@example("s3cr3t/@:s3cr3t")
@example("s3cr3t?s3cr3t")
@example("s3cr3t\ns3cr3t")
def test_no_secret_is_ever_shown(secret: str) -> None:
    for written in (secret, quote(secret, safe="")):
        for url in (
            f"mongodb://admin:{written}@db.example:27017/countly",
            f"mongodb+srv://{written}:{written}@db.example/",
            f"mongodb://db.example/?authMechanismProperties=TOKEN:{written}",
            f"mongodb://admin:{written}@db.example/?authSource=admin&x={written}",
            f"admin:{written}@db.example",
        ):
            settings = Settings(mongo_uri=url, requests_url=url)
            for shown in (settings.shown("mongo_uri"), settings.shown("requests_url"), repr(settings)):
                assert "s3cr3t" not in shown


def test_what_is_no_secret_is_shown() -> None:
    settings = Settings(
        mongo_uri="mongodb://admin:pass@db.example:27017/countly?replicaSet=rs0",
        requests_url="postgresql+psycopg://admin:pass@db.example/requests",
    )
    assert settings.shown("mongo_uri") == "mongodb://***@db.example:27017/countly?…"
    assert settings.shown("requests_url") == "postgresql+psycopg://***@db.example/requests"
