"""SeqIO's own caching program, run as users run it, and jobs that read its cache."""

import importlib.util
import itertools
import os
import pathlib
import subprocess
import sys

import pytest

from recallm_jax.config.load import load_config
from recallm_jax.data.records import train_records, validation_records
from recallm_jax.policy.setup import load_tokenizer
from recallm_jax.runtime.errors import UserError
from tasks.prompts.record import to_json
from tests.oracles.gcs_tls import proxied

CONFIG = ["--config=configs/quickstart.py:tiny", "--config.evaluation.num_examples=3"]
NUM_TRAIN = 6
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    # Found but not loaded: beside TensorFlow it may crash a process at its exit.
    pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="no Beam here"),
]


WANTED = {"RECALLM_CONFIG": " ".join(CONFIG), "RECALLM_NUM_TRAIN": str(NUM_TRAIN)}


def run(*command, **variables):
    return subprocess.run(
        command,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ".", **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def seqio_cache_tasks(folder, *arguments, **variables):
    return run(
        *(pathlib.Path(sys.executable).with_name("seqio_cache_tasks"), "--tasks=recallm_.*"),
        *("--module_import=recallm_jax.registered_tasks", f"--output_cache_dir={folder}"),
        *("--min_shards=2", *arguments),
        **variables,
    )


def first(config, tokenizer, count):
    records = train_records(config, tokenizer, 0)
    taken = [to_json(record) for record in itertools.islice(records, count)]
    records.close()
    return taken


def test_cached_examples_are_the_uncached_ones(tmp_path):
    done = seqio_cache_tasks(tmp_path, **WANTED)
    assert done.returncode == 0, done.stderr[-2000:]
    plain = load_config(CONFIG)
    cached = load_config([*CONFIG, f"--config.data.cache_dir={tmp_path}"])
    tokenizer = load_tokenizer(plain)
    for dataset in ("retrieval", "math_retrieval"):
        expected = validation_records(plain, tokenizer, dataset, 256)
        found = validation_records(cached, tokenizer, dataset, 256)
        assert [*map(to_json, found)] == [*map(to_json, expected)]
        assert len(found) == 3
    # Both tasks hold 6 examples; the mixture repeats neither before it has given 6.
    training = first(cached, tokenizer, NUM_TRAIN)
    assert len(set(training)) == NUM_TRAIN
    assert set(training) <= set(first(plain, tokenizer, 8 * NUM_TRAIN))


@pytest.mark.slow
def test_a_cache_in_a_bucket_is_written_and_read(gcs, bucket, tmp_path):
    with proxied(gcs, tmp_path) as variables:
        # Beam would look for credentials for half a minute.
        anonymous = "--pipeline_options=--no_auth"
        done = seqio_cache_tasks(f"{bucket}/cache", anonymous, **WANTED, **variables)
        assert done.returncode == 0, done.stderr[-2000:]
        before = len(gcs.requests)
        read = run(sys.executable, "-c", PRINT_RECORDS, bucket, *CONFIG, **variables)
    assert read.returncode == 0, read.stderr[-2000:]
    assert any("train.tfrecord" in path for _, path in gcs.requests[before:])
    plain = load_config(CONFIG)
    tokenizer = load_tokenizer(plain)
    lines = read.stdout.splitlines()
    assert lines[:3] == [*map(to_json, validation_records(plain, tokenizer, "retrieval", 256))]
    assert len(set(lines[3:])) == NUM_TRAIN
    assert set(lines[3:]) <= set(first(plain, tokenizer, 8 * NUM_TRAIN))


# In a process of its own, because TensorFlow's client reads the environment only once.
PRINT_RECORDS = f"""
import itertools, sys
from recallm_jax.config.load import load_config
from recallm_jax.data.records import train_records, validation_records
from recallm_jax.policy.setup import load_tokenizer
from tasks.prompts.record import to_json

bucket, *arguments = sys.argv[1:]
config = load_config([*arguments, f"--config.data.cache_dir={{bucket}}/cache"])
tokenizer = load_tokenizer(config)
training = train_records(config, tokenizer, 0)
records = [
    *validation_records(config, tokenizer, "retrieval", 256),
    *itertools.islice(training, {NUM_TRAIN}),
]
training.close()
print(*map(to_json, records), sep="\\n")
"""


def test_a_cache_that_lacks_a_task_is_refused(tmp_path):
    config = load_config([*CONFIG, f"--config.data.cache_dir={tmp_path}"])
    with pytest.raises(UserError, match=r"holds no finished cache of recallm_retrieval_val_256"):
        validation_records(config, load_tokenizer(config), "retrieval", 256)


def test_a_missing_config_is_one_line(tmp_path):
    done = seqio_cache_tasks(tmp_path, RECALLM_CONFIG="--config=none.py", RECALLM_NUM_TRAIN="1")
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("error: --config=none.py: there is no")
