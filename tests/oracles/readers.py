"""Readers with policies that one computes by hand, and with a small random transformer."""

import dataclasses

import jax.numpy as jnp

from recallm_jax.answering.load import reader_of
from recallm_jax.answering.reader import Reader
from recallm_jax.config.load import load_config
from recallm_jax.policy.setup import set_up
from tests.oracles.consoles import toy_context
from tests.oracles.toy_policy import IndifferentPolicy

CONFIG = ["--config=configs/quickstart.py:tiny", "--config.data.source=generated"]


def config_with(*options: str):
    return load_config(
        [
            *CONFIG,
            "--config.decoding.max_recall_length=5",
            "--config.decoding.max_new_tokens=24",
            *options,
        ]
    )


def toy_reader(*options: str, quote_first: bool = True, loves_spans: bool = False) -> Reader:
    """Return a reader whose greedy answers hold the lowest token that is allowed."""
    config = config_with(*options)
    context = toy_context(config)
    policy = IndifferentPolicy()
    if loves_spans:
        start = context.tokenizer.start_recall_id
        policy = IndifferentPolicy(jnp.zeros((770, 768)).at[:, start].add(9.0))
    return quoting(reader_of(config, context, policy), quote_first)


def tiny_reader(*options: str, temperature: float = 0.0) -> Reader:
    """Return a reader with a small random transformer, whose answers begin with a span."""
    config = config_with(*options)
    context = set_up(config)
    return quoting(reader_of(config, context, context.policy, temperature=temperature), True)


def quoting(reader: Reader, quote_first: bool) -> Reader:
    options = dataclasses.replace(reader.options, quote_first=quote_first)
    return dataclasses.replace(reader, options=options)
