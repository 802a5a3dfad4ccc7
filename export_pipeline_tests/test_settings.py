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


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("DAGSTER_HOME", "/srv/dagster", "home", Path("/srv/dagster")),
        ("EXPORT_PIPELINE_MONGO_URI", "mongodb://db:1/", "mongo_uri", "mongodb://db:1/"),
        ("EXPORT_PIPELINE_MONGO_DATABASE", "shop", "mongo_database", "shop"),
        ("EXPORT_PIPELINE_CATALOG", "/etc/mine.yaml", "catalog", Path("/etc/mine.yaml")),
        ("EXPORT_PIPELINE_REQUESTS_URL", "postgresql://db/r", "requests_database", "postgresql://db/r"),
        ("EXPORT_PIPELINE_STORAGE", "/srv/exports", "storage_root", "/srv/exports"),
        ("EXPORT_PIPELINE_BATCH_SIZE", "20", "batch_size", 20),
        ("EXPORT_PIPELINE_REQUIRE_POINT_IN_TIME", "false", "require_point_in_time", False),
        ("EXPORT_PIPELINE_RETENTION", "30", "retention", timedelta(days=30)),
        ("EXPORT_PIPELINE_RETENTION", "0.5", "retention", timedelta(hours=12)),
        ("EXPORT_PIPELINE_RETENTION", "P1DT6H", "retention", timedelta(hours=30)),
        ("EXPORT_PIPELINE_READ_TIMEOUT", "90", "read_timeout", timedelta(seconds=90)),
        ("EXPORT_PIPELINE_READ_TIMEOUT", "PT2M", "read_timeout", timedelta(minutes=2)),
    ],
)
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


@pytest.mark.parametrize(
    ("field", "text", "reason"),
    [
        ("batch_size", "0", "greater than or equal to 1"),
        ("batch_size", "many", "valid integer"),
        ("retention", "a week", "valid timedelta"),
        ("retention", "-1", "greater than 0"),
        ("retention", "inf", "valid timedelta"),
        ("retention", "1e12", "valid timedelta"),
        ("retention", "40000", "less than or equal to 36500 days"),
        ("read_timeout", "0", "greater than or equal to"),
        ("read_timeout", "3000000", "less than or equal to 24 days"),
        ("require_point_in_time", "maybe", "valid boolean"),
    ],
)
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
