"""Write the prompts of a config as JSONL, to be read without TensorFlow, already tokenised.

    python -m recallm_jax.prepare --config=configs/quickstart.py --out=prompts --num_train=256

The job writes OUT/train.jsonl, a file for each validation task, and the config. Train on them with
`--config.data.source=jsonl:OUT/train.jsonl` and the same data settings.
"""

import contextlib
import sys
from collections.abc import Sequence
from itertools import islice

from ml_collections import ConfigDict

from recallm_jax.config.kept import MAY_CHANGE, REWARD, STAGES, keep_config
from recallm_jax.config.load import JobParser, parse_config, path_argument
from recallm_jax.data.records import check_data, train_records, validation_records
from recallm_jax.data.settings import evaluated_datasets, evaluated_lengths
from recallm_jax.policy.setup import load_tokenizer
from recallm_jax.runtime.console import Console
from recallm_jax.runtime.errors import UserError, run_job
from recallm_jax.runtime.kept_programs import keep_programs
from storage.files import Path, open_folder
from storage.sole_writer import sole_writer
from tasks.generate import gave_way
from tasks.names import validation_task
from tasks.prompts.record import write_jsonl


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.prepare", __doc__)
    parser.add_argument("--out", type=path_argument, required=True, help="folder to write to")
    parser.add_argument("--num_train", type=int, required=True, help="training records")
    arguments, config = parse_config(parser, argv)
    if arguments.num_train < 1:
        raise UserError(f"--num_train={arguments.num_train}: give at least 1")
    out = open_folder(arguments.out)
    with sole_writer(out):
        _prepare(config, out, arguments.num_train)


def _prepare(config: ConfigDict, out: Path, num_train: int) -> None:
    keep_programs(config.compilation_cache)
    tokenizer = load_tokenizer(config)
    check_data(config, tokenizer)
    remedy = "give another --out, or delete the folder"
    keep_config(config, out, may_change=MAY_CHANGE + STAGES + REWARD, remedy=remedy)
    with contextlib.closing(train_records(config, tokenizer, 0)) as stream:
        first = islice(stream, num_train)
        records = Console().progress(first, "train", total=num_train)
        print(out / "train.jsonl", write_jsonl(out / "train.jsonl", records))
    for dataset in evaluated_datasets(config):
        for length in evaluated_lengths(config, dataset):
            path = out / f"{validation_task(dataset, length)}.jsonl"
            print(path, write_jsonl(path, validation_records(config, tokenizer, dataset, length)))
    if gave_way:
        counts = ", ".join(f"{dataset} {count}" for dataset, count in sorted(gave_way.items()))
        print(f"rows that did not fit and were replaced by others: {counts}")


if __name__ == "__main__":
    sys.exit(main())
