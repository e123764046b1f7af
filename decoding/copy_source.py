"""The sources that a recall span may copy from: the prompt, or the prompt and the response so far.

The state machine of `span_copy.py` asks a `CopySource` and doesn't know which one it has. A source
answers for the *places* of each row: everywhere that the row's open span may have been copied from.
Only the source that made places can read them.

    source                    its places
    PromptSource              a `Locus`: an interval of the prompt's sorted suffixes
    PromptAndResponseSource   a `Locus` of the prompt, and `Matches` in the response's window
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, UInt32

from decoding import locus as prompt_search
from decoding import response_text
from decoding.locus import Index, Locus
from decoding.response_text import Matches, ResponseText, TextRules
from decoding.suffix_index import SharedIndex, SuffixIndex, in_parts

Places = Any


@runtime_checkable
class CopySource(Protocol):
    """A source of spans for B groups of R rows: a frozen pytree, as are its places."""

    @property
    def index(self) -> Index:
        """The index of the prompts."""
        ...

    @property
    def text(self) -> ResponseText | None:
        """The windows in which spans copy from their responses; None if none does."""
        ...

    def first_places(self, num_rows: int) -> Places:
        """Return the places before the first token of each of `num_rows` responses a prompt."""
        ...

    def move(
        self,
        places: Places,
        token: Int[Array, "B R"],
        opens: Bool[Array, "B R"],
        copies: Bool[Array, "B R"],
    ) -> Places:
        """Return the places after `token`, which opens a span, or is copied, or does neither.

        A copied token that continues no match leaves a row without places.
        """
        ...

    def extend(self, places: Places, token: Int[Array, "B R"]) -> "CopySource":
        """Return the source after the rows have emitted `token`; `places` are those before it."""
        ...

    def may_open(self, places: Places) -> Bool[Array, "B R"]:
        """Return whether there is something that a span could copy, should one open now."""
        ...

    def next_tokens(
        self, places: Places, rows: Bool[Array, "B R"], num_rows: int
    ) -> UInt32[Array, "B R words"]:
        """Return the tokens below `num_rows` that continue the open span, as packed bits.

        The sets of rows outside `rows` are empty.
        """
        ...

    def goes_on(self, places: Places) -> Bool[Array, "B R"]:
        """Return whether some token continues the open span."""
        ...

    def may_close(self, places: Places) -> Bool[Array, "B R"]:
        """Return whether the text allows a span that has copied something to end here."""
        ...

    def most_next_tokens(self, places: Places) -> Int[Array, "*rows"]:
        """Return a cheap upper bound of the number of tokens that continue the open span."""
        ...

    def first_next_tokens(
        self, places: Places, limit: int
    ) -> tuple[Int[Array, "B R some"], Bool[Array, "B R some"]]:
        """Return tokens that continue the open span, each once, and which of them are real.

        These are all such tokens if `most_next_tokens` is at most `limit`.
        """
        ...

    def of_rows(self, rows: Int[Array, "B P"]) -> "CopySource":
        """Return the source for P positions a prompt, each of the response number `rows[b, p]`."""
        ...

    def in_parts(self, parts: int, group_size: int) -> "CopySource":
        """Return the source of B prompts as that of equal parts, whose rows can be kept or not."""
        ...

    def keep(self, rows: Int[Array, "A R"]) -> "CopySource":
        """Return the source, which is in parts, of some rows of each part."""
        ...

    def insert(self, slot: Int[Array, ""], other: Any) -> "CopySource":
        """Return the source with prompt `slot` and its rows replaced by those of `other`.

        Both are of one kind and in one part, and `other` has one prompt.
        """
        ...

    def locus(self, places: Places) -> Locus:
        """Return the places in the prompt. Its depth counts copied tokens even if it is empty."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptSource:
    """Spans copy from the prompt. The places are a `Locus`."""

    index: Index

    @property
    def text(self) -> None:
        """No window: nothing is copied from a response."""
        return None

    def first_places(self, num_rows: int) -> Locus:
        """Return the root of each prompt's suffixes."""
        return prompt_search.root(self.index, num_rows)

    def move(
        self,
        places: Locus,
        token: Int[Array, "B R"],
        opens: Bool[Array, "B R"],
        copies: Bool[Array, "B R"],
    ) -> Locus:
        """Descend by a copied token; a span that opens stands at the root."""

        def moved(_):
            copied = prompt_search.descend(self.index, places, token)
            opened = prompt_search.root(self.index, token.shape[1])
            return jax.tree.map(
                lambda new, at_root, old: jnp.where(copies, new, jnp.where(opens, at_root, old)),
                copied,
                opened,
                places,
            )

        return lax.cond((opens | copies).any(), moved, lambda _: places, None)

    def extend(self, places: Locus, token: Int[Array, "B R"]) -> "PromptSource":
        """Return the source itself: a prompt does not grow."""
        del places, token
        return self

    def may_open(self, places: Locus) -> Bool[Array, "B R"]:
        """Return whether the prompt has a suffix that a span may open on."""
        return jnp.broadcast_to(self.index.of_rows("count") > 0, places.low.shape)

    def next_tokens(
        self, places: Locus, rows: Bool[Array, "B R"], num_rows: int
    ) -> UInt32[Array, "B R words"]:
        """Return the tokens that continue the suffixes of the locus."""
        del num_rows
        return prompt_search.next_tokens(self.index, places, rows)

    def goes_on(self, places: Locus) -> Bool[Array, "B R"]:
        """Return whether some suffix of the locus goes on."""
        return prompt_search.goes_on(self.index, places)

    def may_close(self, places: Locus) -> Bool[Array, "B R"]:
        """Return whether a span may close in some suffix of the locus."""
        return (places.low < places.high) & prompt_search.may_close(self.index, places)

    def most_next_tokens(self, places: Locus) -> Int[Array, "*rows"]:
        """Return the number of branches, and one for the token of the first suffix."""
        return places.last - places.first + 1

    def first_next_tokens(
        self, places: Locus, limit: int
    ) -> tuple[Int[Array, "B R limit"], Bool[Array, "B R limit"]]:
        """Return the token of the first suffix and those of the first branches."""
        return prompt_search.first_next_tokens(self.index, places, limit)

    def of_rows(self, rows: Int[Array, "B P"]) -> "PromptSource":
        """Return the source itself: all responses share the prompt."""
        del rows
        return self

    def in_parts(self, parts: int, group_size: int) -> "PromptSource":
        """Return the source as one of equal parts."""
        assert isinstance(self.index, SuffixIndex)
        return PromptSource(in_parts(self.index, parts, group_size))

    def keep(self, rows: Int[Array, "A R"]) -> "PromptSource":
        """Return the source of some rows of each part."""
        assert isinstance(self.index, SharedIndex)
        return PromptSource(self.index.keep(rows))

    def insert(self, slot: Int[Array, ""], other: Any) -> "PromptSource":
        """Return the source with the index of prompt `slot` replaced."""
        assert isinstance(self.index, SharedIndex)
        return PromptSource(self.index.insert(slot, other.index))

    def locus(self, places: Locus) -> Locus:
        """Return the places, which are all in the prompt."""
        return places


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptAndResponsePlaces:
    """The places of each row's span in the prompt, and in the window of its response."""

    locus: Locus
    matches: Matches


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptAndResponseSource:
    """Spans copy from the prompt and from what their response holds before them.

    A match may run from the prompt's last tokens into the response.
    """

    prompt: PromptSource
    text: ResponseText
    rules: TextRules = dataclasses.field(metadata={"static": True})

    @property
    def index(self) -> Index:
        """The index of the prompts."""
        return self.prompt.index

    def first_places(self, num_rows: int) -> PromptAndResponsePlaces:
        """Return the root of each prompt's suffixes, and no match in the windows."""
        locus = self.prompt.first_places(num_rows)
        matches = response_text.no_matches(
            locus.low.shape, self.text.tokens.shape[-1], tail=self.rules.tail
        )
        return PromptAndResponsePlaces(locus, matches)

    def move(
        self,
        places: PromptAndResponsePlaces,
        token: Int[Array, "B R"],
        opens: Bool[Array, "B R"],
        copies: Bool[Array, "B R"],
    ) -> PromptAndResponsePlaces:
        """Move in the prompt, and in the window by one token."""
        locus = self.prompt.move(places.locus, token, opens, copies)
        matches = lax.cond(
            (opens | copies).any(),
            lambda matches: response_text.move(matches, self.text, token, opens, copies),
            response_text.stay,
            places.matches,
        )
        return PromptAndResponsePlaces(locus, matches)

    def extend(
        self, places: PromptAndResponsePlaces, token: Int[Array, "B R"]
    ) -> "PromptAndResponseSource":
        """Append the token to the windows."""
        text = response_text.append(self.text, token, places.matches.position, self.rules)
        return dataclasses.replace(self, text=text)

    def may_open(self, places: PromptAndResponsePlaces) -> Bool[Array, "B R"]:
        """Return whether the prompt or the window has a place that a span may open on."""
        of_prompt = self.prompt.may_open(places.locus)
        # If every prompt has such a place, the windows need not be read.
        return lax.cond(
            of_prompt.all(),
            lambda: of_prompt,
            lambda: of_prompt | response_text.may_open(places.matches, self.text),
        )

    def next_tokens(
        self, places: PromptAndResponsePlaces, rows: Bool[Array, "B R"], num_rows: int
    ) -> UInt32[Array, "B R words"]:
        """Return the tokens that continue a match in the prompt or in the window."""
        words = self.prompt.next_tokens(places.locus, rows, num_rows)
        return words | response_text.next_tokens(places.matches, self.text, rows, num_rows)

    def goes_on(self, places: PromptAndResponsePlaces) -> Bool[Array, "B R"]:
        """Return whether a match goes on in the prompt or in the window."""
        of_prompt = self.prompt.goes_on(places.locus)
        return of_prompt | response_text.goes_on(places.matches, self.text)

    def may_close(self, places: PromptAndResponsePlaces) -> Bool[Array, "B R"]:
        """Return whether a span may close in the prompt or in the window."""
        of_prompt = self.prompt.may_close(places.locus)
        return of_prompt | response_text.may_close(places.matches, self.text)

    def most_next_tokens(self, places: PromptAndResponsePlaces) -> Int[Array, "*rows"]:
        """Return the bound of the prompt, and the number of matches in the window that go on."""
        of_prompt = self.prompt.most_next_tokens(places.locus)
        return of_prompt + response_text.count_matches(places.matches, self.text)

    def first_next_tokens(
        self, places: PromptAndResponsePlaces, limit: int
    ) -> tuple[Int[Array, "B R some"], Bool[Array, "B R some"]]:
        """Return up to `limit` tokens of the prompt and of the window, each real only once."""
        of_prompt = self.prompt.first_next_tokens(places.locus, limit)
        of_response = response_text.first_next_tokens(places.matches, self.text, limit)
        tokens, real = jax.tree.map(
            lambda *both: jnp.concatenate(both, axis=-1), of_prompt, of_response
        )
        same = (tokens[..., :, None] == tokens[..., None, :]) & real[..., None, :]
        return tokens, real & ~jnp.tril(same, -1).any(axis=-1)

    def of_rows(self, rows: Int[Array, "B P"]) -> "PromptAndResponseSource":
        """Return the source with the window of the response that each position belongs to."""
        pick = jax.vmap(lambda of_prompt, row: of_prompt[row])
        return dataclasses.replace(
            self, text=jax.tree.map(lambda field: pick(field, rows), self.text)
        )

    def in_parts(self, parts: int, group_size: int) -> "PromptAndResponseSource":
        """Return the source as one of equal parts."""

        def rows(field: Array) -> Array:
            return field.reshape(parts, -1, *field.shape[2:])

        text = jax.tree.map(rows, self.text)
        prompt = self.prompt.in_parts(parts, group_size)
        return dataclasses.replace(self, prompt=prompt, text=text)

    def insert(self, slot: Int[Array, ""], other: Any) -> "PromptAndResponseSource":
        """Return the source with prompt `slot` and the windows of its rows replaced."""
        group_size = other.text.newest.shape[1]

        def put(into: Array, one: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(into, one, slot * group_size, axis=1)

        text = jax.tree.map(put, self.text, other.text)
        return dataclasses.replace(self, prompt=self.prompt.insert(slot, other.prompt), text=text)

    def keep(self, rows: Int[Array, "A R"]) -> "PromptAndResponseSource":
        """Return the source of some rows of each part, with their windows."""
        return dataclasses.replace(self.of_rows(rows), prompt=self.prompt.keep(rows))

    def locus(self, places: PromptAndResponsePlaces) -> Locus:
        """Return the places in the prompt."""
        return places.locus
