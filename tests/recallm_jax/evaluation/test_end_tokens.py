"""A response that ends with any of the model's end tokens has ended, and is not cut off."""

import dataclasses

import jax.numpy as jnp
import pytest

from recallm_jax.config.load import load_config
from recallm_jax.data.records import validation_records
from recallm_jax.evaluation.respond import Asked, respond
from recallm_jax.evaluation.rows import response_rows
from recallm_jax.policy.modes import decoding_mode
from tasks.prompts.vocabulary import Tokenizer
from tests.oracles.consoles import toy_context
from tests.oracles.reward_rules import EVAL
from tests.oracles.toy_policy import ToyPolicy

ROWS = 768
CONFIG = ["--config=configs/quickstart.py:tiny", "--config.data.source=generated"]


def two_ended(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tiny tokenizer with a second end token, as Qwen2.5 and Llama 3 have."""
    ends = [tokenizer.encode(token)[0] for token in ("<|im_end|>", "<|endoftext|>")]
    return Tokenizer(
        tokenizer.to_json(),
        chat_template=tokenizer.chat_template,
        eos_token=tokenizer.eos_token,
        end_ids=ends,
    )


@pytest.mark.parametrize("decoded", ["in slots", "in batches"])
def test_a_policy_that_ends_with_the_second_end_token_stops_there(tokenizer, decoded):
    config = load_config(CONFIG)
    tokenizer = two_ended(tokenizer)
    (said,), (end,) = tokenizer.encode("A"), tokenizer.encode("<|endoftext|>")
    assert tokenizer.end_ids == (tokenizer.eos_id, end)
    # Writes "A" after any token but "A", and the second end token after "A".
    table = jnp.zeros((ROWS + 2, ROWS)).at[:ROWS, said].set(5.0)
    policy = ToyPolicy(table=table.at[said, said].set(0.0).at[said, end].set(5.0))
    records = validation_records(config, tokenizer, "retrieval", 256)[:1]
    asked = Asked(
        title="toy",
        records=records,
        mode=decoding_mode("constrained-greedy", config, tokenizer),
        length=256,
        max_new_tokens=8,
        batch_size=1,
        # Responses with given beginnings are decoded in batches.
        prefixes={records[0].example_id: [[said]]} if decoded == "in batches" else None,
    )
    context = dataclasses.replace(toy_context(config), tokenizer=tokenizer)
    (answered,) = respond(config, context, policy, asked)
    (row,) = response_rows(answered, tokenizer, EVAL)
    assert (row["completion"], row["completion_tokens"], row["finished"]) == ("A", 2, True)
