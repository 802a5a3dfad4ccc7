"""Deleting a run from Dagster's history with all that Dagster keeps of it: its own way leaves files behind."""

from pathlib import Path

import dagster as dg


def delete_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a finished run, its events, and what its process printed.

    On SQLite a run's events are a database of their own, which Dagster empties and leaves: some 300 kB for each run,
    for good, in which what was deleted can still be read.
    """
    instance.delete_run(run_id)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    path_for_shard = getattr(instance.event_log_storage, "path_for_shard", None)  # SQLite's alone has one
    if path_for_shard is not None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path_for_shard(run_id)}{suffix}").unlink(missing_ok=True)
