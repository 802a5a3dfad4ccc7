"""A deleted run leaves nothing on disk."""

from pathlib import Path

import dagster as dg

from export_pipeline.orchestration.run_history import delete_run


@dg.op
def say_something() -> None:
    print("a word")


@dg.job(executor_def=dg.in_process_executor)
def talk() -> None:
    say_something()


def files_about(folder: Path, run_id: str) -> list[Path]:
    return [path for path in folder.rglob("*") if run_id in str(path) and path.is_file()]


def test_nothing_is_left_of_a_deleted_run(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        gone, kept = (talk.execute_in_process(instance=instance).run_id for _ in range(2))
        assert len(files_about(tmp_path, gone)) > 1
        before = files_about(tmp_path, kept)
        delete_run(instance, gone)
        assert files_about(tmp_path, gone) == []
        assert not instance.has_run(gone)
        assert files_about(tmp_path, kept) == before
        assert instance.all_logs(kept)


def test_a_storage_without_files_of_its_own_is_left_to_dagster() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = talk.execute_in_process(instance=instance).run_id
        delete_run(instance, run_id)
        assert not instance.has_run(run_id)
