"""SeqIO's own caching program, run as a user runs it, and jobs that read its cache."""

import importlib.util
import itertools
import os
import pathlib
import subprocess
import sys

import pytest

from recallm_jax.config import load_config
from recallm_jax.errors import UserError
from recallm_jax.inputs import train_records, validation_records
from recallm_jax.setup_policy import load_tokenizer
from tasks.record import to_json

CONFIG = ["--config=configs/quickstart.py:tiny", "--config.evaluation.num_examples=3"]
NUM_TRAIN = 6
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    # Looked for and not loaded: beside TensorFlow it may crash a process at its end.
    pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="no Beam here"),
]


def seqio_cache_tasks(folder, **variables):
    program = pathlib.Path(sys.executable).with_name("seqio_cache_tasks")
    return subprocess.run(
        [
            *(program, "--module_import=recallm_jax.registered_tasks", "--tasks=recallm_.*"),
            *(f"--output_cache_dir={folder}", "--min_shards=2"),
        ],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ".", **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def first(config, tokenizer, count):
    records = train_records(config, tokenizer, 0)
    taken = [to_json(record) for record in itertools.islice(records, count)]
    records.close()
    return taken


def test_cached_examples_are_the_uncached_ones(tmp_path):
    variables = {"RECALLM_CONFIG": " ".join(CONFIG), "RECALLM_NUM_TRAIN": str(NUM_TRAIN)}
    done = seqio_cache_tasks(tmp_path, **variables)
    assert done.returncode == 0, done.stderr[-2000:]
    plain = load_config(CONFIG)
    cached = load_config([*CONFIG, f"--config.data.cache_dir={tmp_path}"])
    tokenizer = load_tokenizer(plain)
    for dataset in ("retrieval", "math_retrieval"):
        expected = validation_records(plain, tokenizer, dataset, 256)
        found = validation_records(cached, tokenizer, dataset, 256)
        assert [*map(to_json, found)] == [*map(to_json, expected)]
        assert len(found) == 3
    # Both tasks hold 6 examples; the mixture has begun neither anew before it has given 6.
    training = first(cached, tokenizer, NUM_TRAIN)
    assert len(set(training)) == NUM_TRAIN
    assert set(training) <= set(first(plain, tokenizer, 8 * NUM_TRAIN))


def test_a_cache_that_lacks_a_task_is_refused(tmp_path):
    config = load_config([*CONFIG, f"--config.data.cache_dir={tmp_path}"])
    with pytest.raises(UserError, match=r"holds no finished cache of recallm_retrieval_val_256"):
        validation_records(config, load_tokenizer(config), "retrieval", 256)


def test_a_missing_config_is_one_line(tmp_path):
    done = seqio_cache_tasks(tmp_path, RECALLM_CONFIG="--config=none.py", RECALLM_NUM_TRAIN="1")
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("error: --config=none.py: there is no")
