"""SmolLM2-135M-Instruct on HELMET's seven categories, the benchmark's form, at 8,192 tokens.

Result: not yet run.
Hardware: meant for one GPU; not tried on one.

    python -m recallm_jax.evaluate --config=configs/eval_helmet.py --workdir=runs/eval_helmet \
        --label=start --config.data.dir=DATA

`data.dir` is the folder with HELMET's unpacked data. SmolLM2's context is 8,192 tokens, so it reads
the first of the benchmark's lengths (8192, 16384, 32768, 65536, 131072). A single task:
`--config.evaluation.suites=helmet_kilt_nq`. In `helmet_chat`, the form with thought and recall,
responses go past the length, which needs a model with a longer context in `model.weights`. Metrics
that need a judge model are left out, and the table names them. `:tiny` is a random model on two
rows of each task.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    options = common.parse_arg(arg, tiny=False)
    config = common.evaluation_only()
    # The limit in the form with thought and recall; the benchmark's form has limits of its own.
    config.decoding.max_new_tokens = 2048

    config.evaluation.suites = ("helmet",)
    config.evaluation.lengths = (8192,)
    # No task has more: the largest ask 100 questions at 6 depths; in-context learning has 500 rows.
    config.evaluation.num_examples = 600

    if options.tiny:
        config = common.shrink(config)
        config.evaluation.lengths = (8192,)
        config.evaluation.modes = ("unconstrained-greedy",)
    return config
