"""Data sets that TFDS has prepared are read from the data folder and never downloaded."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from storage import files
from tasks.datasets.registry import find
from tasks.datasets.single_hop_qa import SOURCES as SINGLE_HOP
from tasks.errors import TaskInputError
from tasks.generate import record
from tasks.prompts.settings import TaskSettings
from tasks.sources.table import Source, read_rows, read_table, text_field
from tasks.sources.tfds_rows import newest, tfds_rows
from tests.oracles.gcs_tls import proxied

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = {
    "train": [
        {"question": "Wie viel ist 2 + 2? é", "answers": [{"text": "4"}, {"text": "four"}], "n": 1},
        {"question": "What is left of 3 - 3?", "answers": [], "n": 2},
    ],
    "test": [{"question": "What is 1 + 1?", "answers": [{"text": "2"}], "n": 3}],
}
SOURCE = Source(
    dataset="sums",
    files={"train": ("sums.jsonl",)},
    where="nowhere",
    parse=lambda raw: (text_field(raw, "question"), tuple(raw["answers"]["text"])),
    key=lambda row: row,
    tfds={"train": ("sums", "train"), "validation": ("sums", "test")},
)


def prepare(folder, name, version, features, rows):
    """Write rows as TFDS does, without its builders."""
    import tensorflow_datasets as tfds

    place = folder / name / version
    place.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name=name.partition("/")[0], version=version, data_dir=str(place), module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=10)
    writer.initialize_splits(list(rows))
    writer.add_examples(rows)
    writer.close_all()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    features = {
        "question": tfds.features.Text(),
        "answers": tfds.features.Sequence({"text": tfds.features.Text()}),
        "n": tfds.features.Scalar(np.int64),
    }
    prepare(folder, "sums", "1.2.0", features, ROWS)
    return str(folder)


def test_a_data_set_of_the_mixture_is_drawn_from_a_copy_of_tfds(tmp_path):
    import tensorflow_datasets as tfds

    names = ("question", "answer", "annotation", "short_answer")
    rows = [
        {name: f"{name} {n}" for name in names} | {"answer": f"It is <<{n}={n}>>{n}.\n#### {n}"}
        for n in range(12)
    ]
    features = {name: tfds.features.Text() for name in names}
    prepare(tmp_path, "gsm8k", "1.0.0", features, {"train": rows, "test": rows[:1]})
    wanted = TaskSettings(target_length=1000, data_dir=str(tmp_path))
    for index in range(10):
        example = find("dapo_math").draft(wanted, "train", 0, index, 0).example(0)
        (answer,) = example.truth["answers"]
        assert f"question {answer}" in example.user
        assert example.demonstrate(np.random.default_rng(0)).thought == (f"It is {answer}.",)


def test_questions_and_their_passages_are_drawn_from_a_copy_of_tfds(tmp_path):
    import tensorflow_datasets as tfds

    text, texts = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())
    people = ["Ada", "Bela", "Cleo", "Dora"]
    questions = {"question": text, "answer": texts}
    rows = [{"question": f"Where was {a} Holt born?", "answer": [f"{a} Bay"]} for a in people]
    for split in ("train", "validation"):
        assert SINGLE_HOP["nq"].tfds[split] == ("natural_questions_open", split)
    splits = {"train": rows[:2], "validation": rows[2:]}
    prepare(tmp_path, "natural_questions_open", "1.0.0", questions, splits)
    answer = {"aliases": texts, "value": text, "normalized_value": text}
    rows = [
        {
            "question": f"Who was born at {a} Bay?",
            "answer": {"aliases": [a, f"{a} Holt"], "value": f"{a} Holt", "normalized_value": ""},
        }
        for a in people
    ]
    prepare(
        *(tmp_path, "trivia_qa/unfiltered.nocontext", "1.1.0"),
        *({"question": text, "answer": answer}, {"train": rows[:2], "validation": rows[2:]}),
    )
    spans = tfds.features.Sequence({"text": text, "answer_start": np.int32})
    rows = [
        {
            "id": a,
            "title": f"{a}_Holt",
            "context": f"{a} Holt was born at {a} Bay.",
            "question": f"{a}'s birthplace?",
            "answers": {"text": [f"{a} Bay"], "answer_start": [20]},
        }
        for a in people
    ]
    features = {"id": text, "title": text, "context": text, "question": text, "answers": spans}
    prepare(tmp_path, "squad/v2.0", "3.0.0", features, {"train": rows, "validation": rows})
    tokenizer, wanted = tiny_tokenizer(), TaskSettings(target_length=900, data_dir=str(tmp_path))
    for dataset in ("nq", "triviaqa"):
        seen = set()
        for index in range(8):
            made = record(dataset, tokenizer, wanted, "train", 0, index)
            (gold,) = made.ground_truth["gold_documents"]
            assert any(alias in gold for alias in made.ground_truth["answers"])
            (who,) = [name for name in people if f"{name} Holt was born at {name} Bay." in gold]
            assert f"Where was {who} Holt born?" in made.prompt or f"at {who} Bay?" in made.prompt
            seen.add(who)
        assert seen == set(people[:2])


def test_rows_come_back_as_plain_values(data_dir):
    rows = {row["n"]: row for row in tfds_rows(f"{data_dir}/sums/1.2.0", "train")}
    assert rows == {
        1: {"question": "Wie viel ist 2 + 2? é", "answers": {"text": ["4", "four"]}, "n": 1},
        2: {"question": "What is left of 3 - 3?", "answers": {"text": []}, "n": 2},
    }
    json.dumps(rows)


def test_each_split_of_a_source_reads_its_own(data_dir):
    assert len(read_table(SOURCE, data_dir, "train").rows) == 2
    assert read_table(SOURCE, data_dir, "validation").rows == (("What is 1 + 1?", ("2",)),)


def test_files_come_before_a_copy_of_tfds(data_dir, tmp_path):
    (tmp_path / "sums").symlink_to(f"{data_dir}/sums")
    line = json.dumps({"question": "Another?", "answers": {"text": ["yes"]}})
    (tmp_path / "sums.jsonl").write_text(line, encoding="utf-8")
    assert read_table(SOURCE, str(tmp_path), "train").rows == (("Another?", ("yes",)),)


def test_a_missing_split_and_a_missing_folder_are_one_clear_error(data_dir, tmp_path):
    with pytest.raises(TaskInputError, match=r"1\.2\.0 can't be read .*prepare 'dev' again"):
        list(tfds_rows(f"{data_dir}/sums/1.2.0", "dev"))
    with pytest.raises(TaskInputError, match=r"has no sums\.jsonl or sums prepared by TFDS"):
        read_table(SOURCE, str(tmp_path), "train")


def test_the_highest_version_counts():
    names = ["/d/x/1.9.0", "/d/x/1.10.0", "/d/x/incomplete", "/d/x/0.2.0"]
    assert newest([f"{name}/features.json" for name in names]) == "/d/x/1.10.0"


def test_parquet_files_and_lone_json_objects_hold_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": [{"role": "user", "content": "é?"}], "answer": {"value": "1"}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_rows(str(tmp_path / "a.parquet"))) == rows
    (tmp_path / "b.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(
        TaskInputError, match=r"b\.parquet is not a Parquet file .*download it again"
    ):
        list(read_rows(str(tmp_path / "b.parquet")))
    (tmp_path / "1.json").write_text('{"problem": "p"}', encoding="utf-8")
    assert list(read_rows(str(tmp_path / "1.json"))) == [{"problem": "p"}]
    (tmp_path / "2.json").write_text('"text"', encoding="utf-8")
    with pytest.raises(TaskInputError, match="holds no list of rows"):
        list(read_rows(str(tmp_path / "2.json")))


# In a separate process, because TensorFlow's client reads the environment only once.
PRINT_ROWS = """
import json, sys
from tasks.sources.tfds_rows import tfds_rows
print(json.dumps(list(tfds_rows(sys.argv[1], "train"))))
"""


@pytest.mark.slow
def test_a_copy_of_tfds_is_read_from_a_bucket(data_dir, gcs, bucket, tmp_path):
    place = "sums/1.2.0"
    for path in pathlib.Path(data_dir, place).iterdir():
        files.as_path(f"{bucket}/{place}/{path.name}").write_bytes(path.read_bytes())
    with proxied(gcs, tmp_path) as variables:
        done = subprocess.run(
            [sys.executable, "-c", PRINT_ROWS, f"{bucket}/{place}"],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ".", **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == list(tfds_rows(f"{data_dir}/{place}", "train"))
