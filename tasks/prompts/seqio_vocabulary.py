"""A `Tokenizer` as a `seqio.Vocabulary`."""

from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf

from tasks.prompts.vocabulary import Tokenizer


class RecallVocabulary(seqio.Vocabulary):
    """Token ids of a Hugging Face tokenizer with the four added tokens.

    The ids are the model's own. Padding is 0 with a separate length, never a token to look for.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Wrap a tokenizer."""
        super().__init__(extra_ids=0)
        self.tokenizer = tokenizer

    @property
    def eos_id(self) -> int:
        """The token that ends an assistant's turn."""
        return self.tokenizer.eos_id

    @property
    def bos_id(self) -> int | None:
        """None, because the chat template writes the beginning of a prompt."""
        return None

    @property
    def unk_id(self) -> int | None:
        """None, because a byte-level tokenizer knows every byte."""
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.size

    def _encode(self, s: str) -> Sequence[int]:
        return self.tokenizer.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(list(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids up to the first end token; ids out of range are dropped."""
        kept: list[int] = []
        for token in ids:
            if int(token) in self.tokenizer.end_ids:
                break
            kept.append(int(token))
        return self.tokenizer.decode(kept)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: tf.Tensor) -> np.ndarray:
            return np.asarray(self.tokenizer.encode(text.numpy().decode()), np.int32)

        ids = tf.py_function(encode, [s], tf.int32)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(row: np.ndarray) -> bytes:
            return self.decode(row.tolist()).encode()

        return tf.numpy_function(decode, [ids], tf.string)

    def __eq__(self, other) -> bool:
        """Compare the tokenizers; SeqIO compares the vocabularies of a mixture."""
        return (
            isinstance(other, RecallVocabulary)
            and self.tokenizer.end_ids == other.tokenizer.end_ids
            and self.tokenizer.to_json() == other.tokenizer.to_json()
        )

    def __hash__(self) -> int:
        """Return a hash that agrees with equality."""
        return hash((self.tokenizer.size, self.tokenizer.end_ids))
