"""Our greedy answers under the span constraint, as JSON: run in the project's environment.

    python tests/torch/answers.py CONFIG_ARGUMENT... -- DOCUMENT QUESTION ...

Each answer begins with a recall span. The output is a list of the prompts' ids, the ids that the
answers begin with, and the answers' ids, spans and texts.
"""

import json
import sys

import numpy as np

from decoding.decode_loop import Limits
from decoding.driver import decode
from decoding.sampling import Sampling, row_keys
from decoding.spans import find_spans, span_trace
from recallm_jax.config.load import load_config
from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.data.settings import task_settings
from recallm_jax.evaluation.question import QUOTE_FIRST, question_record
from recallm_jax.policy.modes import span_rules
from recallm_jax.policy.rollout_layout import for_rollout
from recallm_jax.policy.setup import set_up


def main(arguments: list[str]) -> None:
    """Print the answers."""
    cut = arguments.index("--")
    config, asked = load_config(arguments[:cut]), arguments[cut + 1 :]
    context = set_up(config)
    tokenizer = context.tokenizer
    settings = task_settings(config)
    records = [
        question_record(tokenizer, document, question, settings)[0]
        for document, question in zip(asked[::2], asked[1::2], strict=True)
    ]
    prompts, _ = prompts_and_texts(records, max(len(record.inputs) for record in records))
    prefix = np.asarray(tokenizer.encode(QUOTE_FIRST), np.int32)
    rules, budget = span_rules(config, tokenizer), config.decoding.max_new_tokens
    rollout = decode(
        for_rollout(context.policy),
        context.place(prompts),
        row_keys(0, 0, np.arange(len(records), dtype=np.uint32), 1),
        sampling=Sampling(temperature=0.0),
        limits=Limits(rules, budget, tokenizer.end_ids),
        prefix=np.broadcast_to(prefix, (len(records), 1, len(prefix))),
    )
    spans = find_spans(rollout, span_trace(rollout, rules, budget), rules)
    answers = []
    for number, record in enumerate(records):
        ids = np.asarray(rollout.tokens)[number, 0, : int(rollout.lengths[number, 0])].tolist()
        answers.append(
            {
                "prompt": record.inputs.tolist(),
                "prefix": prefix.tolist(),
                "answer": ids,
                "spans": [[span.start, span.end] for span in spans[number][0]],
            }
        )
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1:])
