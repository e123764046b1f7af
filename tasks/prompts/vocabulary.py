"""Tokenizers with the four added tokens, chat templates and exact character offsets.

`tasks/prompts/seqio_vocabulary.py` wraps a `Tokenizer` as a `seqio.Vocabulary`.
"""

import functools
import re
from collections.abc import Mapping, Sequence

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from tasks.errors import TaskInputError
from tasks.prompts.chat_template import END_THINK, THINK, ChatTemplate
from tasks.prompts.tokenizer_json import changes, read_tokenizer, with_tokens, without_added_tokens

START_RECALL, END_RECALL = "<|start_recall|>", "<|end_recall|>"
ADDED_TOKENS = (START_RECALL, END_RECALL, THINK, END_THINK)


class Tokenizer:
    """A byte-level Hugging Face tokenizer with recall and think tokens.

    Attributes:
      size: the last id plus one.
      eos_id: the token that ends an assistant's turn, and so a demonstration.
      end_ids: the tokens that end a response, `eos_id` among them.
      added_ids: those of `ADDED_TOKENS`, in that order.
      special_ids: all added tokens (chat, control, recall, think); no span may copy one.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        chat_template: str,
        eos_token: str,
        bos_token: str = "",
        end_ids: Sequence[int] = (),
        special_tokens: Mapping[str, str] | None = None,
    ):
        """Read a tokenizer.json; those of the four tokens that it lacks get the next free ids.

        Args:
          eos_token, bos_token: for the template, which writes them where the model needs them;
            bos_token is "" if the model has none.
          end_ids: the tokens at which the model's own settings end a response; () for eos_token
            alone.
          special_tokens: further tokens for the template, such as {"pad_token": "<|pad|>"}.

        Raises:
          TaskInputError: the text is not a tokenizer, it lacks a special token or one of end_ids,
            or the template is broken.
        """
        self._tokenizer = with_tokens(read_tokenizer(tokenizer_json), ADDED_TOKENS)
        self.chat_template = chat_template
        self.eos_token, self.bos_token = eos_token, bos_token
        self.special_tokens = dict(special_tokens or {})
        self.size = max(self._tokenizer.get_vocab().values()) + 1
        stated = tuple(end_ids) or (self.id_of(eos_token),)
        for number in stated:
            if self._tokenizer.id_to_token(number) is None:
                raise TaskInputError(
                    f"eos_token_id = {number} is not an id of the tokenizer; take tokenizer.json, "
                    "config.json and generation_config.json from the same model"
                )
        named = {"eos_token": eos_token, "bos_token": bos_token, **self.special_tokens}
        named = {name: token for name, token in named.items() if token}
        # Also tokens of the vocabulary alone are read whole where the template writes them.
        self._tokenizer.add_special_tokens(
            [
                tokenizers.AddedToken(token, normalized=False)
                for token in named.values()
                if self.id_of(token) not in self._tokenizer.get_added_tokens_decoder()
            ]
        )
        self.start_recall_id, self.end_recall_id = self.id_of(START_RECALL), self.id_of(END_RECALL)
        self.think_id, self.end_think_id = self.id_of(THINK), self.id_of(END_THINK)
        self.added_ids = tuple(map(self.id_of, ADDED_TOKENS))
        self.special_ids = frozenset(self._tokenizer.get_added_tokens_decoder())
        self._template = ChatTemplate(chat_template, named)
        self.eos_id = self._end_of_turn(stated)
        self.end_ids = tuple(dict.fromkeys((*stated, self.eos_id)))

    def _end_of_turn(self, stated: Sequence[int]) -> int:
        """Return the end token that the template writes after an assistant's turn.

        If it writes none, or can't write such a turn, this is eos_token, or the first of the stated
        ids if eos_token is not one of them.
        """
        eos_id, reply = self.id_of(self.eos_token), "An assistant's turn."
        turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": reply}]
        try:
            _, found, after = self.render(turns, opens_turn=False).rpartition(reply)
        except TaskInputError:
            found = after = ""
        written = self.encode(after) if found else []
        ends = [number for number in written if number in (*stated, eos_id)]
        return [*ends, *[eos_id] * (eos_id in stated), *stated][0]

    def id_of(self, token: str) -> int:
        """Return the id of a token.

        Raises:
          TaskInputError: the tokenizer lacks it.
        """
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise TaskInputError(
                f"the tokenizer has no token {token!r}; take tokenizer.json and the names "
                "of its special tokens from the same model"
            )
        return token_id

    def __reduce__(self):
        """Pickle the arguments, because compiled templates can't be pickled."""
        make = functools.partial(
            Tokenizer,
            chat_template=self.chat_template,
            eos_token=self.eos_token,
            bos_token=self.bos_token,
            end_ids=self.end_ids,
            special_tokens=self.special_tokens,
        )
        return make, (self.to_json(),)

    def with_template(self, chat_template: str) -> "Tokenizer":
        """Return the same tokenizer with another chat template."""
        make, (tokenizer_json,) = self.__reduce__()
        return make(tokenizer_json, chat_template=chat_template)

    def to_json(self) -> str:
        """Return the tokenizer.json with the added tokens."""
        return self._tokenizer.to_str()

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without added beginning or end."""
        # This call computes no offsets: a third faster, with the same ids.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_quoting(self, text: str, quoted: tuple[int, int]) -> list[int]:
        """Return the token ids of a text, a part of which stays text whatever tokens it spells.

        The ids differ from those of `encode` only if the part spells added tokens, such as
        <|im_end|>; these are encoded in the tokens of plain text.

        Args:
          quoted: the character range of the part.

        Raises:
          TaskInputError: the tokenizer can't write one of these tokens as text.
        """
        low, high = quoted
        if not self.find_added(text[low:high]):
            return self.encode(text)
        # Tokenizers split a text at its added tokens, and encode what is between two of them apart.
        # So the part is encoded together with all its neighbours up to the next added tokens.
        low = max((found.end() for found in self._added.finditer(text, 0, low)), default=0)
        following = self._added.search(text, high)
        high = following.start() if following else len(text)
        ids = self._as_text.encode(text[low:high], add_special_tokens=False).ids
        if unwritable := self.special_ids.intersection(ids):
            raise TaskInputError(
                f"the tokenizer reads {self.decode([min(unwritable)])!r} as a token of its own "
                "even in plain text; take it out of the text"
            )
        return [*self.encode(text[:low]), *ids, *self.encode(text[high:])]

    @functools.cached_property
    def _as_text(self) -> tokenizers.Tokenizer:
        return without_added_tokens(self._tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text, with added tokens visible; invalid UTF-8 becomes U+FFFD."""
        pieces = b"".join(self.token_bytes[token] for token in ids if token < self.size)
        return pieces.decode("utf-8", errors="replace")

    def encode_with_offsets(
        self, text: str, ids: list[int] | None = None
    ) -> tuple[list[int], Int[np.ndarray, "S 2"]]:
        """Return the ids and the character range of each token.

        A token that holds part of a character has the range of the whole character.

        Args:
          ids: the token ids of the text, if they are known.

        Raises:
          TaskInputError: the tokenizer changes the text, so that tokens have no exact place.
        """
        ids = self.encode(text) if ids is None else ids
        raw = text.encode()
        if b"".join([self.token_bytes[token] for token in ids]) != raw:
            raise TaskInputError(
                "the tokenizer changes this text, so spans would have no exact place in it; the "
                f"cause is {changes(self._tokenizer, text)}"
            )
        ends = np.cumsum(self._token_sizes[ids])
        starts = ends - self._token_sizes[ids]
        # The number of each byte's character; a byte 10xxxxxx continues a character.
        character = np.cumsum(np.frombuffer(raw, np.uint8) & 0xC0 != 0x80) - 1
        return ids, np.stack([character[starts], character[ends - 1] + 1], axis=1)

    def chat_prompt(self, system: str, user: str, *, thinking: bool = True) -> str:
        """Return the text of a prompt, which ends in the assistant's header and an opened thought.

        Args:
          system: the system prompt; "" gives the template no such message.
          thinking: whether the thought is opened. It is opened once, also if the template opens
            one, or an empty one, itself.

        Raises:
          TaskInputError: the template fails on this conversation, or changes the user's text.
        """
        return self._template.prompt(system, user, thinking=thinking)

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        opens_turn: bool = True,
        thinking: bool | None = None,
    ) -> str:
        """Return what the chat template itself writes: see `ChatTemplate.render`."""
        return self._template.render(messages, opens_turn=opens_turn, thinking=thinking)

    @functools.cached_property
    def _token_sizes(self) -> Int[np.ndarray, " V"]:
        return np.array([len(piece) for piece in self.token_bytes])

    def find_added(self, text: str) -> str:
        """Return an added token, such as <|im_end|>, that the text contains; "" for none."""
        found = self._added.search(text)
        return found[0] if found else ""

    def find_control(self, text: str) -> str:
        """Return an added token that is neither for recall nor for thoughts; "" for none.

        Such a token, as <|im_end|>, would end or begin a turn.
        """
        kept = re.compile("|".join(map(re.escape, ADDED_TOKENS)))
        return self.find_added(kept.sub(" ", text))

    @functools.cached_property
    def _added(self) -> re.Pattern[str]:
        contents = [str(token) for token in self._tokenizer.get_added_tokens_decoder().values()]
        return re.compile("|".join(map(re.escape, sorted(contents, key=len, reverse=True))))

    @functools.cached_property
    def begins_character(self) -> Bool[np.ndarray, " V"]:
        """Whether the first byte of each token begins a character (a byte 10xxxxxx does not)."""
        return np.array(
            [piece[:1] != b"" and piece[0] & 0xC0 != 0x80 for piece in self.token_bytes]
        )

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of every id; b"" for ids without a token."""
        pieces = [b""] * self.size
        byte_of = _byte_of_character()
        added = self._tokenizer.get_added_tokens_decoder()
        for token, token_id in self._tokenizer.get_vocab().items():
            if token_id in added:
                pieces[token_id] = token.encode()
            else:
                try:
                    pieces[token_id] = bytes(byte_of[character] for character in token)
                except KeyError as error:
                    raise TaskInputError(
                        f"token {token!r} is not byte-level; use a byte-level BPE tokenizer "
                        "(Llama 3, Qwen2/2.5/3, SmolLM2)"
                    ) from error
        return pieces


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's mapping from printable characters to bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    mapping = {chr(byte): byte for byte in printable}
    mapping.update({chr(256 + number): byte for number, byte in enumerate(others)})
    return mapping
