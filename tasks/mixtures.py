"""Register the SeqIO tasks and their mixture. Importing this module registers nothing."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from tasks.datasets.registry import find
from tasks.generate import record
from tasks.metrics import metric_functions
from tasks.names import MIXTURE, train_task, validation_task
from tasks.prompts.record import Record
from tasks.prompts.seqio_vocabulary import RecallVocabulary
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import Tokenizer

# The mixture of places says which example of which data set comes when, without making any. The
# names of its tasks begin so that no cache of "recallm_.*" has them.
ORDER = f"order_of_{MIXTURE}"
# Training never runs out of examples, since each is a function of its index. A cache has fewer.
NUM_TRAIN = 2**31 - 1
_FLAGS = ("copyable", "span_start", "span_end")
_STRINGS = ("example_id", "dataset", "prompt", "ground_truth")
# The fields to ask a mixture's `get_dataset` for beside the output features.
PASSTHROUGH = ("offsets", *_STRINGS)
_registered: dict[str, object] = {}
# For each data set of the mixture, in order, a function from an index to an example.
_makers: list[Callable[[int], Record]] = []


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The data sets of a run, and how many examples they have.

    Attributes:
      rates: the share of each data set in the mixture.
      evaluated: the data sets that have validation tasks.
      cache_dir: where their cache will be read, since SeqIO's tasks remember where they found it.
    """

    rates: Mapping[str, float]
    evaluated: Sequence[str]
    validation_lengths: Sequence[int]
    num_validation: int
    seed: int
    num_train: int = NUM_TRAIN
    cache_dir: str = ""


def register(tokenizer: Tokenizer, settings: TaskSettings, mixture: Mixture) -> None:
    """Register the tasks of some data sets, and their mixture, with SeqIO.

    Calling it again with the same arguments changes nothing; with others it replaces the tasks that
    have the same names.

    Args:
      settings: the settings of the training tasks; validation replaces the target length.
    """
    rates, seed, num_train = mixture.rates, mixture.seed, mixture.num_train
    wanted = (
        *(tokenizer.to_json(), settings, tuple(rates.items())),
        *(mixture.num_validation, seed, num_train, mixture.cache_dir),
    )
    names = [train_task(dataset) for dataset in rates]
    _makers[:] = [
        functools.partial(record, dataset, tokenizer, settings, "train", seed) for dataset in rates
    ]
    for number, (dataset, name, make) in enumerate(zip(rates, names, _makers, strict=True)):
        scored = metric_functions(find(dataset))
        if _must_register(f"order_of_{name}", (number, num_train)):
            _add_order(f"order_of_{name}", number, num_train)
        if _must_register(name, (wanted, settings)):
            _add(name, tokenizer, make, "train", num_train, scored)
        for length in mixture.validation_lengths if dataset in mixture.evaluated else ():
            sized = dataclasses.replace(settings, target_length=length)
            task = validation_task(dataset, length)
            make = functools.partial(record, dataset, tokenizer, sized, "validation", seed)
            if _must_register(task, (wanted, sized)):
                _add(task, tokenizer, make, "validation", mixture.num_validation, scored)
    if _must_register(MIXTURE, wanted, seqio.MixtureRegistry):
        seqio.MixtureRegistry.add(MIXTURE, list(zip(names, rates.values(), strict=True)))
    if _must_register(ORDER, wanted, seqio.MixtureRegistry):
        places = [f"order_of_{name}" for name in names]
        seqio.MixtureRegistry.add(ORDER, list(zip(places, rates.values(), strict=True)))


def train_examples(seed: int, start: int, rows: Sequence[int], size: int) -> tf.data.Dataset:
    """Yield the registered mixture's training examples from number `start` on, without end.

    They equal the mixture's own, but only `rows` of each `size` examples are made, and none before
    `start`. So every host makes its own part of every batch, and a resumed run begins at once.
    """
    order = seqio.MixtureRegistry.get(ORDER).get_dataset(
        None, split="train", shuffle=False, seed=seed, num_epochs=None, try_in_mem_cache=False
    )
    makers = tuple(_makers)

    def make(place: np.ndarray):
        number, index = place.tolist()
        return _features(makers[number](index))

    return _made(only_rows(order, start, rows, size), make, "inputs").prefetch(tf.data.AUTOTUNE)


def only_rows(
    examples: tf.data.Dataset, start: int, rows: Sequence[int], size: int
) -> tf.data.Dataset:
    """Return `rows` of each `size` examples, from number `start` on."""
    rest = examples.skip(start)
    if len(rows) == size:
        return rest
    wanted = tf.constant(np.isin(np.arange(size), rows))
    chosen = rest.enumerate().filter(lambda number, _: wanted[number % size])
    return chosen.map(lambda _, example: example)


def _must_register(name: str, wanted: object, registry=seqio.TaskRegistry) -> bool:
    """Return whether a name must be registered; remove an outdated entry of that name."""
    if _registered.get(name) == wanted:
        return False
    if name in _registered:
        registry.remove(name)
    _registered[name] = wanted
    return True


def _add(name, tokenizer, make_record, split, num_examples, metric_fns) -> None:
    vocabulary = RecallVocabulary(tokenizer)
    flag = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False, dtype=tf.int32)
    tokens = seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32)

    def make(index: np.int64):
        return _features(make_record(int(index)))

    seqio.TaskRegistry.add(
        name,
        source=_indices(split, num_examples),
        # All work that is worth caching (`seqio_cache_tasks`) is done before this step.
        preprocessors=[
            functools.partial(_made, make=make, given="index"),
            seqio.CacheDatasetPlaceholder(),
        ],
        output_features={"inputs": tokens, "targets": tokens, **dict.fromkeys(_FLAGS, flag)},
        postprocess_fn=_postprocess,
        metric_fns=metric_fns,
    )


def _add_order(name: str, number: int, num_examples: int) -> None:
    """Register the task whose examples are the number of a data set and an index, nothing else."""
    place = seqio.Feature(seqio.PassThroughVocabulary(NUM_TRAIN), add_eos=False, dtype=tf.int32)

    def places(ds: tf.data.Dataset) -> tf.data.Dataset:
        return ds.map(lambda row: {"inputs": tf.stack([number, tf.cast(row["index"], tf.int32)])})

    seqio.TaskRegistry.add(
        name,
        source=_indices("train", num_examples),
        preprocessors=[places],
        output_features={"inputs": place},
    )


def _indices(split: str, num_examples: int) -> seqio.FunctionDataSource:
    def indices(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del split, shuffle_files, seed
        return tf.data.Dataset.range(num_examples).map(lambda index: {"index": index})

    return seqio.FunctionDataSource(
        indices, splits=[split], num_input_examples={split: num_examples}
    )


def _made(ds: tf.data.Dataset, make: Callable[[Any], list], given: str) -> tf.data.Dataset:
    """Map the feature `given` to examples by a Python function."""
    return ds.map(
        lambda row: _named(tf.numpy_function(make, [row[given]], _DTYPES)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _postprocess(decoded, example=None, is_target=False):
    """Return the ground truth of a target, and a prediction unchanged."""
    return json.loads(example["ground_truth"].decode()) if is_target else decoded


_ARRAYS = ("inputs", "targets", *_FLAGS, "offsets")
_DTYPES = [tf.int32] * len(_ARRAYS) + [tf.string] * len(_STRINGS)


def _features(example: Record) -> list:
    truth = json.dumps(example.ground_truth, ensure_ascii=False)
    arrays = [np.asarray(getattr(example, name), np.int32) for name in _ARRAYS]
    texts = (example.example_id, example.dataset, example.prompt, truth)
    return [*arrays, *(text.encode() for text in texts)]


def _named(values: list[tf.Tensor]) -> dict[str, tf.Tensor]:
    features = dict(zip((*_ARRAYS, *_STRINGS), values, strict=True))
    for name in _ARRAYS:
        features[name].set_shape([None, 2] if name == "offsets" else [None])
    for name in _STRINGS:
        features[name].set_shape([])
    return features


def to_record(features: Mapping[str, Any]) -> Record:
    """Return the record of a task's example, which comes from `as_numpy_iterator`."""
    fields: dict[str, Any] = {name: features[name] for name in _ARRAYS}
    fields |= {name: features[name].astype(bool) for name in _FLAGS}
    fields |= {name: features[name].decode() for name in _STRINGS}
    return Record(**{**fields, "ground_truth": json.loads(fields["ground_truth"])})
