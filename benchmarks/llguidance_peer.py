"""The same spans under llguidance's substring automaton, if it is installed.

Each token of the vocabulary is a word of three letters, and the context a list of such words, so
that the automaton allows the same tokens as we do. llguidance's executor makes the masks, one row a
task; NumPy applies them as words of 32 tokens.
"""

import json
import string
import time
from importlib import metadata, util

import numpy as np

LETTERS = string.digits + string.ascii_letters + "-_"
# A limit on the work of a grammar; the default limit refuses a context of 128K tokens.
LIMIT = 1_000_000_000


def installed() -> str | None:
    """Return the installed version, or None."""
    return metadata.version("llguidance") if util.find_spec("llguidance") else None


def word(token: int) -> str:
    """Return the text of a token."""
    return LETTERS[token >> 12 & 63] + LETTERS[token >> 6 & 63] + LETTERS[token & 63]


class WordTokenizer:
    """The interface of a tokenizer for llguidance: the bytes of each token, and the inverse."""

    bos_token_id = None

    def __init__(self, vocab_size: int):
        self.eos_token_id = vocab_size - 1
        self.special_token_ids = [vocab_size - 2, vocab_size - 1]
        self.tokens = [word(token).encode() for token in range(vocab_size - 2)] + [b"<s>", b"<e>"]
        self._ids = {text: token for token, text in enumerate(self.tokens)}

    def __call__(self, text: bytes) -> list[int]:
        return [self._ids[text[i : i + 3]] for i in range(0, len(text) - 2, 3)]


class SubstringPeer:
    """The automaton of one context."""

    def __init__(self, context: np.ndarray, vocab_size: int):
        import llguidance

        wrapper = llguidance.TokenizerWrapper(WordTokenizer(vocab_size))
        tokenizer = llguidance.LLTokenizer(wrapper, eos_token=vocab_size - 1, slices=[])
        chunks = [word(token) for token in context.tolist()]
        grammar = "start: SPAN\nSPAN: %regex " + json.dumps({"substring_chunks": chunks})
        limits = llguidance.LLParserLimits(
            initial_lexer_fuel=LIMIT,
            step_lexer_fuel=LIMIT,
            max_grammar_size=LIMIT,
            max_lexer_states=LIMIT,
            precompute_large_lexemes=False,
        )
        start = time.perf_counter()
        self._root = llguidance.LLMatcher(tokenizer, grammar, limits=limits)
        self.build_seconds = time.perf_counter() - start
        if self._root.is_error():
            raise RuntimeError(self._root.get_error())
        self._executor = llguidance.LLExecutor()
        self._vocab_size = vocab_size

    def rows(self, copied: np.ndarray) -> list:
        """Return a matcher for each row of copied tokens [rows, d]."""
        matchers = [self._root.deep_copy() for _ in copied]
        for matcher, tokens in zip(matchers, copied.tolist(), strict=True):
            if not matcher.consume_tokens(tokens):
                raise RuntimeError(matcher.get_error())
        return matchers

    def step_seconds(self, matchers: list, logits: np.ndarray) -> tuple[float, np.ndarray]:
        """Take one step in fresh rows: make masks, apply them, take a token.

        Returns:
          The time, and flags [rows, tokens] of the tokens that each row allows, end left out.
        """
        import llguidance.numpy

        words = llguidance.numpy.allocate_token_bitmask(len(matchers), self._vocab_size)
        pairs = [(matcher, row) for row, matcher in enumerate(matchers)]
        start = time.perf_counter()
        llguidance.numpy.fill_next_token_bitmask_par(self._executor, pairs, words)
        flags = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
        flags = flags[:, : self._vocab_size].view(bool)
        masked = np.where(flags, logits, -np.inf)
        tokens = masked[:, : self._vocab_size - 2].argmax(1)
        llguidance.numpy.consume_token_par(
            self._executor,
            [(matcher, int(token)) for matcher, token in zip(matchers, tokens, strict=True)],
        )
        return time.perf_counter() - start, flags[:, : self._vocab_size - 2]
