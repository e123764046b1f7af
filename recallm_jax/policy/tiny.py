"""A small random model and its tokenizer, made on demand, for tests and demonstrations."""

import dataclasses

import tokenizers
from ml_collections import ConfigDict
from tokenizers import decoders, models, pre_tokenizers, trainers

from recallm_jax.models.presets import ModelConfig
from recallm_jax.weights.hugging_face import TokenizerFiles
from tasks.datasets import reasoning_retrieval, recall
from tasks.prompts.vocabulary import Tokenizer

RANDOM = "random:tiny"
TINY = ModelConfig(
    family="llama",
    vocab_rows=768,
    width=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=128,
    max_positions=32_768,
    rope_theta=1e4,
    norm_eps=1e-5,
    tie_embeddings=True,
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def tiny_sizes(config: ConfigDict) -> ModelConfig:
    """Return the sizes of the small random model."""
    return dataclasses.replace(TINY, dtype=config.model.dtype, remat=config.model.remat)


def tiny_tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer of a few hundred tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        *recall.SYSTEMS,
        *recall.INTRODUCTIONS,
        *recall.QUESTIONS,
        *reasoning_retrieval.ARITHMETIC_QUESTIONS,
        *reasoning_retrieval.EQUATION_QUESTIONS,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Tokenizer(tokenizer.to_str(), chat_template=CHAT_TEMPLATE, eos_token="<|im_end|>")


def tiny_files() -> TokenizerFiles:
    """Return the files of `tiny_tokenizer`."""
    tokenizer = tiny_tokenizer()
    return TokenizerFiles(tokenizer.to_json(), tokenizer.chat_template, tokenizer.eos_token)
