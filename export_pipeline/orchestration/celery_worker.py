"""The Celery app of the workers: ``celery -A export_pipeline.orchestration.celery_worker worker --concurrency 1``.

Broker, result backend and settings are those of the run launcher in DAGSTER_HOME's ``dagster.yaml``: who sends runs
and who takes them read the same file.
"""

from typing import Any

import dagster as dg
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

from export_pipeline.errors import BadInputError


def make_app() -> Any:
    """Return the run launcher's Celery app, able to run jobs.

    Raises BadInputError where DAGSTER_HOME's run launcher is another one.
    """
    with dg.DagsterInstance.get() as instance:
        launcher = instance.run_launcher
        if not isinstance(launcher, CeleryRunLauncher):
            raise BadInputError(
                "the run launcher in DAGSTER_HOME's dagster.yaml is not dagster_celery.launcher.CeleryRunLauncher, so "
                "no run would reach this worker; copy export_pipeline/deployment/celery.dagster.yaml there"
            )
        app = launcher.celery
    create_execute_job_task(app)
    create_resume_job_task(app)
    return app


app = make_app()
