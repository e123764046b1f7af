"""Compiled programs are kept: hits at the next start, broken entries, unusable folders."""

import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import jax
import pytest

from recallm_jax.runtime import kept_programs
from recallm_jax.runtime.kept_programs import delete_old, keep_programs
from storage.files import as_path
from tests.oracles.tiny_models import ROOT

DAY = 24 * 3600
KEEPING = """
import json, sys
import jax, jax.numpy as jnp
from recallm_jax.runtime.kept_programs import keep_programs
counts = dict.fromkeys(("cache_hits", "cache_misses"), 0)
def count(event, **options):
    name = event.rpartition("/")[2]
    if name in counts:
        counts[name] += 1
jax.monitoring.register_event_listener(count)
keep_programs(sys.argv[1])
found = [jax.jit(lambda x, n=n: jnp.tanh(x @ x + n).sum())(jnp.eye(8)) for n in range(6)]
print(json.dumps(counts | {"found": [float(x) for x in found]}))
"""


def start(setting, **changes):
    """Start a process that compiles small programs; the caller's own cache is not used."""
    environment = {n: v for n, v in os.environ.items() if "_CACHE_" not in n and n != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "-c", KEEPING, str(setting)],
        cwd=ROOT,
        env=environment | changes,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def counts_of(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out), err


def test_the_second_start_reads_what_the_first_compiled_and_survives_broken_entries(tmp_path):
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    first, _ = counts_of(start("user", **home))
    entries = sorted((tmp_path / "recallm-jax" / "programs").glob("*-cache"))
    assert first["cache_misses"] == len(entries) >= 6
    assert first["cache_hits"] == 0
    second, err = counts_of(start("user", **home))
    assert (second["cache_hits"], second["cache_misses"]) == (len(entries), 0)
    assert second["found"] == first["found"]
    assert not err
    # Cut as by a kill in the middle of a write, empty, or of other bytes.
    whole = entries[0].read_bytes()
    entries[0].write_bytes(whole[: len(whole) // 2])
    entries[1].write_bytes(b"")
    entries[2].write_bytes(os.urandom(1000))
    third, err = counts_of(start("user", **home))
    assert third["found"] == first["found"]
    assert third["cache_hits"] == len(entries) - 3
    assert "Error reading persistent compilation cache entry" in err


@pytest.mark.slow
def test_processes_that_compile_the_same_programs_at_once_leave_whole_entries(tmp_path):
    together = [counts_of(process)[0] for process in [start(tmp_path) for _ in range(4)]]
    assert len({tuple(counts["found"]) for counts in together}) == 1
    after, err = counts_of(start(tmp_path))
    assert after["cache_misses"] == 0
    assert not err


def test_a_folder_on_gs_is_read_by_the_next_start(bucket):
    folder, every = f"{bucket}/programs", {kept_programs.MIN_SECONDS: "0"}
    first, _ = counts_of(start(folder, **every))
    assert first["cache_misses"] >= 6
    second, err = counts_of(start(folder, **every))
    assert (second["cache_hits"], second["cache_misses"]) == (first["cache_misses"], 0)
    assert second["found"] == first["found"]
    assert not err


def test_a_bucket_that_does_not_exist_is_one_line_and_no_failure(gcs):
    counts, err = counts_of(start("gs://no-such-bucket/programs"))
    assert counts["cache_misses"] == 0
    (line,) = err.splitlines()
    assert line.startswith(
        "compiled programs are not kept: gs://no-such-bucket/programs can't be written ("
    )


@pytest.fixture
def settings(monkeypatch):
    """JAX's settings of the cache, set back after the test; the environment has none."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv(kept_programs.FOLDER)
    monkeypatch.delenv(kept_programs.MIN_SECONDS)
    for name, value in zip(names, (None, 1.0), strict=True):
        jax.config.update(name, value)
    yield lambda: tuple(getattr(jax.config, name) for name in names)
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_setting_names_the_folder_and_the_environment_overrides_it(
    settings, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_programs("user")
    assert settings() == (str(tmp_path / "recallm-jax" / "programs"), 0.0)
    keep_programs(str(tmp_path / "here"))
    assert settings()[0] == str(tmp_path / "here")
    # Several processes see the workdir, and perhaps nothing else.
    keep_programs("user", workdir=as_path(str(tmp_path / "run")))
    assert settings()[0] == str(tmp_path / "run" / "programs")
    keep_programs("")
    assert settings()[0] is None
    monkeypatch.setenv(kept_programs.FOLDER, str(tmp_path / "given"))
    monkeypatch.setenv(kept_programs.MIN_SECONDS, "1")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    keep_programs(str(tmp_path / "here"))
    assert settings() == (str(tmp_path / "given"), 1.0)
    # Set but empty, the variable switches it off.
    monkeypatch.setenv(kept_programs.FOLDER, "")
    keep_programs("user")
    assert settings()[0] is None


@pytest.mark.parametrize("by", ["setting", "environment"])
def test_a_folder_that_cannot_be_written_is_one_line_and_no_failure(
    by, settings, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "programs"
    if by == "environment":
        monkeypatch.setenv(kept_programs.FOLDER, str(folder))
    keep_programs(str(folder))
    assert settings()[0] is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"compiled programs are not kept: {folder} can't be written (not a directory); name "
        "another folder in config.compilation_cache or JAX_COMPILATION_CACHE_DIR"
    )


def entry(folder, name, *, days, size=10):
    path = folder / f"{name}-cache"
    path.write_bytes(bytes(size))
    used = time.time() - days * DAY
    os.utime(path, (used, used))
    return path


def test_entries_that_are_not_used_are_deleted(tmp_path):
    entry(tmp_path, "new", days=1)
    entry(tmp_path, "old", days=31)
    # Written long ago, and read yesterday.
    read = entry(tmp_path, "read", days=100)
    os.utime(read, (time.time() - DAY, time.time() - 100 * DAY))
    (tmp_path / "notes.txt").write_text("not an entry")
    os.utime(tmp_path / "notes.txt", (0, 0))
    delete_old(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("new-cache", "notes.txt", "read-cache")
    ]


def test_beyond_the_size_the_oldest_entries_are_deleted(tmp_path):
    for days in range(5):
        entry(tmp_path, f"from_{days}", days=days)
    delete_old(tmp_path, size=35)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"from_{days}-cache" for days in range(3)
    ]


def test_only_a_folder_of_the_jobs_own_is_swept(settings, tmp_path, monkeypatch):
    old = entry(tmp_path, "old", days=100)
    monkeypatch.setenv(kept_programs.FOLDER, str(tmp_path))
    keep_programs("user")
    assert old.exists()
    monkeypatch.delenv(kept_programs.FOLDER)
    keep_programs(str(tmp_path))
    assert not old.exists()


@pytest.mark.slow
def test_the_second_start_of_a_run_takes_less_than_half_of_the_firsts_processor_time(tmp_path):
    kept = ("_CACHE_", "XLA_FLAGS")
    environment = {n: v for n, v in os.environ.items() if not any(part in n for part in kept)}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "home")

    def seconds(workdir: pathlib.Path) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [
                *(sys.executable, "-m", "recallm_jax.train", "--config=configs/quickstart.py:tiny"),
                *("--config.data.source=generated", f"--workdir={workdir}"),
            ],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)

    first, second = seconds(tmp_path / "first"), seconds(tmp_path / "second")
    print(f"processor time: {first:.1f} s, then {second:.1f} s")
    assert second < first / 2
