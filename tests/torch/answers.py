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
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from decoding.spans import find_spans, span_trace
from recallm_jax.answering.prompt import QUOTE_FIRST, document_part, question_part
from recallm_jax.config.load import load_config
from recallm_jax.data.settings import task_settings
from recallm_jax.policy.modes import span_rules
from recallm_jax.policy.rollout_layout import for_rollout
from recallm_jax.policy.setup import set_up


def main(arguments: list[str]) -> None:
    """Print the answers."""
    cut = arguments.index("--")
    config, asked = load_config(arguments[:cut]), arguments[cut + 1 :]
    context = set_up(config)
    tokenizer = context.tokenizer
    settings, rules = task_settings(config), span_rules(config, context.tokenizer)
    limits = Limits(rules, config.decoding.max_new_tokens, tokenizer.end_ids)
    prefix = np.asarray(tokenizer.encode(QUOTE_FIRST), np.int32)
    answers = []
    for document, question in zip(asked[::2], asked[1::2], strict=True):
        part = document_part(tokenizer, document, settings)
        rest = question_part(tokenizer, document, question, settings)
        flags = (part.copyable, part.span_start, part.span_end)
        prompts = Prompts(
            np.concatenate([part.tokens, rest]).astype(np.int32)[None],
            np.array([len(part.tokens) + len(rest)], np.int32),
            *(np.pad(flag, (0, len(rest)))[None] for flag in flags),
        )
        rollout = decode(
            for_rollout(context.policy),
            context.place(prompts),
            row_keys(0, 0, np.zeros(1, np.uint32), 1),
            sampling=Sampling(temperature=0.0),
            limits=limits,
            prefix=prefix[None, None],
        )
        seen = span_trace(rollout, rules, limits.max_new_tokens)
        ((spans,),) = find_spans(rollout, seen, rules)
        answers.append(
            {
                "prompt": prompts.tokens[0].tolist(),
                "prefix": prefix.tolist(),
                "answer": np.asarray(rollout.tokens)[0, 0, : int(rollout.lengths[0, 0])].tolist(),
                "spans": [[span.start, span.end] for span in spans],
            }
        )
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1:])
