"""The interface of a language model for decoding and training: a few functions and a cache."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

PromptCache = Any
Cache = Any


@runtime_checkable
class Unembedding(Protocol):
    """The last step of a language model, from hidden states to logits."""

    def unembed(self, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
        """Return the float32 logits of hidden states."""
        ...

    def unembed_at(
        self, hidden: Float[Array, "*rows D"], tokens: Int[Array, "*rows K"]
    ) -> Float[Array, "*rows K"]:
        """Return the float32 logits of K tokens a row, without computing all of V."""
        ...


@runtime_checkable
class Policy(Unembedding, Protocol):
    """A causal language model over groups: B prompts, G continuations of each.

    A policy is itself a pytree, so that it passes through `jax.jit`, `jax.grad` and shardings as
    one argument. The prompt's keys and values are stored once per prompt and shared by its G
    continuations; both caches are opaque to the callers.

    While it decodes, A parts of R rows each are computed. Devices that split a batch of prompts
    have a part each, with the rows of its own prompts; on one device A = 1. A row is a response
    that is being decoded.

    A policy that inherits from this class and has one device, prompts of one size and a cache that
    never grows can do without `parts`, `prompt_sizes`, `grow` and `gathered`, one whose open
    prompts get no more tokens without `extend`, and one that is trained whole without `trained` and
    `with_trained`.
    """

    @property
    def vocab_rows(self) -> int:
        """V: the rows of the output matrix, which may exceed the tokenizer's entries."""
        ...

    @property
    def max_positions(self) -> int:
        """The most tokens that a prompt and its response may have together."""
        ...

    @property
    def width(self) -> int:
        """D: the size of a hidden state."""
        ...

    def trained(self) -> Any:
        """Return the parameters that updates change: all, or a tree of some of its arrays."""
        return self

    def with_trained(self, trained: Any) -> "Policy":
        """Return this policy with other values of what `trained` returns."""
        return trained

    def parts(self, num_prompts: int) -> int:
        """Return A, the number of equal parts that devices split a batch of prompts into."""
        return 1

    def prompt_sizes(self, size: int) -> tuple[int, ...]:
        """Return the lengths, ascending, that prompts of at most `size` tokens are padded to.

        The last is at least `size`.
        """
        return (size,)

    def prefill(
        self, prompts: Int[Array, "B S"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B D"], PromptCache]:
        """Return the hidden state at each prompt's last token, and the prompt's cache."""
        ...

    def extend(
        self, tokens: Int[Array, "B C"], counts: Int[Array, " B"], cache: PromptCache
    ) -> tuple[Float[Array, "B D"], PromptCache]:
        """Return what `prefill` does for prompts with more tokens at their ends.

        Only continuing open prompts (`decoding/open_prompts.py`) needs it.

        Args:
          tokens: further tokens of each prompt, at least one, padded on the right.
          counts: the number of them; there must be room for them in what the prompts were padded to
            when they were prefilled.
          cache: of the prompts without these tokens; it stays as it is.
        """
        raise NotImplementedError

    def start(self, num_prompts: int, group_size: int, *, size: int, capacity: int) -> Cache:
        """Return a cache without prompts, for B prompts with G rows each.

        The rows of a part are in the order of its prompts.

        Args:
          size: the most tokens of a prompt; there is room for all prompts at that size.
          capacity: the tokens that there is room for in each row.
        """
        ...

    def enter(
        self,
        cache: Cache,
        numbers: Int[Array, "A k"],
        prompt_cache: PromptCache,
        place: Int[Array, ""],
    ) -> Cache:
        """Return the cache with k prompts more in each part, whose rows begin anew.

        Args:
          numbers: the prompts' numbers in their parts.
          prompt_cache: of A k prompts, those of a part side by side, all padded to one of the
            `prompt_sizes`.
          place: the tokens of the padded prompts before these. Those that were there are replaced.
        """
        ...

    def grow(self, cache: Cache, capacity: int) -> Cache:
        """Return the cache with room for `capacity` tokens of each row, those there included.

        This runs outside programs, and may free the given cache while it goes.
        """
        return cache

    def keep(self, cache: Cache, rows: Int[Array, "A R"]) -> Cache:
        """Return the cache of some rows of each part, and of no more prompts than these need.

        This runs outside programs, and may free the given cache while it goes.
        """
        ...

    def decode(
        self,
        tokens: Int[Array, "A R"],
        steps: Int[Array, ""] | Int[Array, "A R"],
        cache: Cache,
    ) -> tuple[Float[Array, "A R V"], Cache]:
        """Feed response token number `steps` of each row; return the next token's logits.

        The absolute position of the token is the prompt's length plus `steps`. One number says that
        all rows are at the same token, which makes the step cheaper.
        """
        ...

    def score(
        self,
        prompts: Int[Array, "B S"],
        lengths: Int[Array, " B"],
        responses: Int[Array, "B R P"],
        places: Int[Array, "B R P"] | None = None,
    ) -> Float[Array, "B R P D"]:
        """Return the hidden states that predict each response token (teacher forcing).

        A row holds one response, or several that lie end to end (`decoding/packing.py`). The first
        token of a response is predicted by the state at the prompt's last token, every other one by
        the state at the token before it. The prompt is computed once a group.

        Args:
          places: the number of each token in its response, so that every 0 begins another one; None
            if each row is one response.
        """
        ...

    def gathered(self, num_prompts: int, parts: int) -> Unembedding:
        """Gather the output matrix once for many calls of `unembed` and `unembed_at`.

        In these calls hidden states are [num_prompts, R, D], with the R rows split over devices
        into `parts` equal parts.
        """
        return self
