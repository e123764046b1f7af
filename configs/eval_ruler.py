"""SmolLM2-135M-Instruct on RULER's 13 tasks, the benchmark's prompts, at 4,096 tokens.

Result: not yet run.
Hardware: meant for one GPU, not tried on one; or 2 CPU cores with patience.

    python -m recallm_jax.evaluate --config=configs/eval_ruler.py --workdir=runs/eval_ruler \
        --label=start --config.data.dir=DATA

Five tasks need essays, two need SQuAD and HotpotQA: `data.dir` is the folder with these files, or
with the benchmark's own. Without files, name the six other tasks in `evaluation.suites`. For longer
prompts: `--config.evaluation.lengths=8192`. For the form with thought and recall:
`--config.evaluation.suites=ruler_chat`. `:tiny` is a minute with a random model and no files.
"""

from ml_collections import ConfigDict

from configs import common

WITHOUT_FILES = (
    "ruler_niah_single_1",
    "ruler_niah_multikey_2",
    "ruler_niah_multikey_3",
    "ruler_vt",
    "ruler_cwe",
    "ruler_fwe",
)


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    options = common.parse_arg(arg, tiny=False)
    config = common.evaluation_only()
    config.evaluation.suites = ("ruler",)
    config.evaluation.lengths = (4096,)
    config.evaluation.num_examples = 500

    if options.tiny:
        config = common.shrink(config)
        config.evaluation.suites = WITHOUT_FILES
        config.evaluation.lengths = (1536,)
        config.evaluation.modes = ("unconstrained-greedy",)
    return config
