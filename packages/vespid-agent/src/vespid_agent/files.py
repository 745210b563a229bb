"""Where an agent's files lie: beside its config, one of each per executor."""

from __future__ import annotations

from pathlib import Path


def journal_path(config_file: Path, executor_id: str) -> Path:
    return _of(config_file, "journal", executor_id, "sqlite")


def lock_path(config_file: Path, executor_id: str) -> Path:
    return journal_path(config_file, executor_id).with_suffix(".lock")


def status_path(config_file: Path, executor_id: str) -> Path:
    """What the running process tells of itself (`status/`)."""
    return _of(config_file, "status", executor_id, "json")


def log_path(config_file: Path, executor_id: str) -> Path:
    """The newest of its log files (`log_file.py`)."""
    return _of(config_file, "log", executor_id, "jsonl")


def _of(config_file: Path, what: str, executor_id: str, suffix: str) -> Path:
    safe = "".join(c for c in executor_id if c.isalnum() or c in "-_")[:64]
    return config_file.parent / f"{what}-{safe}.{suffix}"
