"""Tasks of a config, registered on import for SeqIO's own programs and their workers.

    RECALLM_CONFIG="--config=configs/quickstart.py" RECALLM_NUM_TRAIN=20000 \\
        seqio_cache_tasks --module_import=recallm_jax.registered_tasks --tasks="recallm_.*" \\
        --output_cache_dir=gs://bucket/cache --min_shards=8

The config and its overrides are in the environment, because workers import modules by name. Read
the cache with `--config.data.cache_dir=gs://bucket/cache` and the same data settings.
"""

import os
import shlex

from recallm_jax.config.load import load_config
from recallm_jax.data.records import check_data, register_tasks
from recallm_jax.policy.setup import load_tokenizer
from recallm_jax.runtime.errors import UserError
from storage.errors import InputError

CONFIG, NUM_TRAIN = "RECALLM_CONFIG", "RECALLM_NUM_TRAIN"


def register() -> None:
    """Register the tasks of the config that the environment names.

    Raises:
      SystemExit: the config is missing or does not pass; the message is one line.
    """
    try:
        if CONFIG not in os.environ:
            raise UserError(f"{CONFIG} is not set; give it the arguments, such as --config=FILE")
        count = os.environ.get(NUM_TRAIN, "")
        if not count.isdecimal() or int(count) < 1:
            raise UserError(
                f"{NUM_TRAIN} = {count!r} must be the number of training examples to cache"
            )
        config = load_config(shlex.split(os.environ[CONFIG]))
        tokenizer = load_tokenizer(config)
        check_data(config, tokenizer)
        register_tasks(config, tokenizer, num_train=int(count))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


register()
