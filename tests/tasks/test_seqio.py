"""SeqIO's tasks give the examples of the plain functions, mixed and scored."""

import collections

import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.generate import record
from tasks.names import MIXTURE, train_task, validation_task
from tasks.prompts.record import to_json
from tasks.prompts.settings import TaskSettings

pytestmark = pytest.mark.filterwarnings("ignore")
TOKENIZER = tiny_tokenizer()
SETTINGS = TaskSettings(target_length=400)
OPTIONS = {
    "rates": {"retrieval": 1.0, "math_retrieval": 3.0},
    "evaluated": ("retrieval", "math_retrieval"),
    "validation_lengths": (400, 1024),
    "num_validation": 4,
    "seed": 0,
}


@pytest.fixture(scope="module")
def registered():
    import seqio

    from tasks import mixtures

    mixtures.register(TOKENIZER, SETTINGS, mixtures.Mixture(**OPTIONS))
    return seqio, mixtures


def test_a_tasks_examples_equal_those_of_the_plain_functions(registered):
    seqio, mixtures = registered
    task = seqio.get_mixture_or_task(validation_task("retrieval", 400))
    dataset = task.get_dataset(None, split="validation", shuffle=False)
    got = [to_json(mixtures.to_record(row)) for row in dataset.as_numpy_iterator()]
    expected = [
        to_json(record("retrieval", TOKENIZER, SETTINGS, "validation", 0, i)) for i in range(4)
    ]
    assert got == expected
    assert validation_task("retrieval", 1024) == "recallm_retrieval_val_1k"


def test_shards_part_the_examples(registered):
    seqio, _ = registered
    task = seqio.get_mixture_or_task(validation_task("retrieval", 400))
    ids = []
    for index in range(2):
        shard = seqio.ShardInfo(index=index, num_shards=2)
        dataset = task.get_dataset(None, split="validation", shuffle=False, shard_info=shard)
        ids.append([row["example_id"].decode() for row in dataset.as_numpy_iterator()])
    assert len(ids[0]) == len(ids[1]) == 2
    assert not set(ids[0]) & set(ids[1])


def test_the_mixture_follows_its_rates(registered):
    seqio, mixtures = registered
    mixture = seqio.get_mixture_or_task(MIXTURE)
    dataset = mixture.get_dataset(
        None,
        split="train",
        shuffle=False,
        seed=0,
        num_epochs=None,
        passthrough_features=mixtures.PASSTHROUGH,
    )
    rows = list(dataset.take(80).as_numpy_iterator())
    counts = collections.Counter(row["dataset"].decode() for row in rows)
    # 60 expected, standard deviation 3.9.
    assert 45 <= counts["math_retrieval"] <= 75
    assert mixtures.to_record(rows[0]).example_id.startswith("recallm_")


def test_parts_of_the_mixture_are_the_mixtures_own_examples(registered):
    seqio, mixtures = registered
    dataset = seqio.get_mixture_or_task(MIXTURE).get_dataset(
        None,
        split="train",
        shuffle=False,
        seed=3,
        num_epochs=None,
        passthrough_features=mixtures.PASSTHROUGH,
    )
    whole = [to_json(mixtures.to_record(row)) for row in dataset.take(45).as_numpy_iterator()]

    def part(start, rows, size):
        examples = mixtures.train_examples(3, start, rows, size).take(9)
        return [to_json(mixtures.to_record(row)) for row in examples.as_numpy_iterator()]

    assert part(0, [0], 1) == whole[:9]
    assert part(20, [0, 1, 2, 3], 4) == whole[20:29]
    # Batches of four from the sixth example on; another host makes the other half of each.
    assert (
        part(5, [1, 3], 4)
        == [whole[5 + 4 * batch + row] for batch in range(5) for row in (1, 3)][:9]
    )


def test_the_metric_scores_the_final_answer(registered):
    seqio, _ = registered
    (metric,) = seqio.get_mixture_or_task(train_task("retrieval")).metric_fns
    targets = [{"answers": ["ab12"]}] * 4
    responses = ["x</think>\nAnswer: ab12", "Answer: 'ab12'.", "Answer: the value ab12", "ab12"]
    scores = metric(targets, responses)
    assert scores == {"exact_match": 50.0, "answer_contained": 75.0}


def test_the_vocabulary_round_trips_and_stops_at_the_end_of_turn(registered):
    seqio, _ = registered
    vocabulary = (
        seqio.get_mixture_or_task(train_task("retrieval")).output_features["inputs"].vocabulary
    )
    ids = vocabulary.encode("Key 12:\nab")
    assert vocabulary.decode([*ids, vocabulary.eos_id, 5]) == "Key 12:\nab"
    assert vocabulary.encode_tf("Key 12:\nab").numpy().tolist() == list(ids)


def test_other_settings_replace_what_stands_under_the_same_names(registered):
    seqio, mixtures = registered
    name = validation_task("retrieval", 400)
    before = seqio.get_mixture_or_task(name)
    mixtures.register(TOKENIZER, SETTINGS, mixtures.Mixture(**OPTIONS))
    assert seqio.get_mixture_or_task(name) is before
    mixtures.register(TOKENIZER, SETTINGS, mixtures.Mixture(**{**OPTIONS, "seed": 1}))
    dataset = seqio.get_mixture_or_task(name).get_dataset(None, split="validation", shuffle=False)
    got = [to_json(mixtures.to_record(row)) for row in dataset.as_numpy_iterator()]
    assert got == [
        to_json(record("retrieval", TOKENIZER, SETTINGS, "validation", 1, i)) for i in range(4)
    ]
    current = {seqio.TaskRegistry.get(train_task(dataset)) for dataset in OPTIONS["rates"]}
    assert set(seqio.MixtureRegistry.get(MIXTURE).tasks) == current
