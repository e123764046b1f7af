"""Answer a question about a document with recall spans, each shown beside its source.

    python -m recallm_jax.generate --config=configs/quickstart.py --workdir=runs/quickstart \
        --document=README.md --question="What is a recall span?"

Without `--workdir` the starting weights answer. They do not know recall spans yet, so let
`--quote_first` begin the response with one.
"""

import dataclasses
import sys
from collections.abc import Sequence

from decoding.policy import Policy
from recallm_jax.answering.console import show_as_it_comes
from recallm_jax.answering.files import read_document
from recallm_jax.answering.load import reader_of
from recallm_jax.config.load import JobParser, parse_config, path_argument
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.errors import run_job
from recallm_jax.runtime.kept_programs import keep_programs
from recallm_jax.training.restore import restore_policy
from storage.files import open_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.generate", __doc__)
    parser.add_argument(
        "--document", type=path_argument, required=True, help="text file; its text may be recalled"
    )
    parser.add_argument("--question", required=True)
    parser.add_argument("--workdir", type=path_argument, help="run whose newest checkpoint answers")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--quote_first", action="store_true", help="begin with a recall span")
    arguments, config = parse_config(parser, argv)
    document = read_document(arguments.document)
    keep_programs(config.compilation_cache)
    context = set_up(config)
    policy: Policy = context.policy
    if arguments.workdir:
        policy, _, _ = restore_policy(config, context, open_folder(arguments.workdir))
    reader = reader_of(config, context, policy, temperature=arguments.temperature)
    options = dataclasses.replace(reader.options, quote_first=arguments.quote_first)
    show_as_it_comes(reader.open(document).stream(arguments.question, options))


if __name__ == "__main__":
    sys.exit(main())
