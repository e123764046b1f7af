"""Print our side of a comparison as JSON: prompts, and greedy responses without the constraint.

    python tests/torch/our_greedy.py WEIGHTS QUESTIONS MAX_NEW_TOKENS

QUESTIONS is a JSON list of texts. The result has the keys `prompts` (texts), `inputs` and
`responses` (ids, the end token included), and `size` (the tokenizer's).
"""

import json
import sys

import numpy as np

from decoding.decode_loop import Limits
from decoding.driver import decode
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import SpanRules
from recallm_jax.weights.source import load_policy


def main(weights: str, questions: str, max_new_tokens: str) -> None:
    """Load the weights and answer the questions."""
    policy = load_policy(weights)
    tokenizer = policy.tokenizer.tokenizer()
    prompts = [tokenizer.chat_prompt("", question) for question in json.loads(questions)]
    inputs = [tokenizer.encode(prompt) for prompt in prompts]
    lengths = np.array([len(ids) for ids in inputs], np.int32)
    tokens = np.zeros((len(inputs), lengths.max()), np.int32)
    for row, ids in zip(tokens, inputs, strict=True):
        row[: len(ids)] = ids
    flags = np.zeros(tokens.shape, bool)
    rules = SpanRules(
        start_token=tokenizer.start_recall_id,
        end_token=tokenizer.end_recall_id,
        vocab_size=tokenizer.size,
        constrained=False,
    )
    rollout = decode(
        policy.model,
        Prompts(tokens, lengths, flags, flags, flags),
        row_keys(0, 0, np.arange(len(inputs)), 1),
        sampling=Sampling(temperature=0.0),
        limits=Limits(rules, int(max_new_tokens), tokenizer.end_ids),
    )
    responses = [
        np.asarray(rollout.tokens)[number, 0, :length].tolist()
        for number, length in enumerate(np.asarray(rollout.lengths)[:, 0])
    ]
    found = {"prompts": prompts, "inputs": inputs, "responses": responses, "size": tokenizer.size}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
