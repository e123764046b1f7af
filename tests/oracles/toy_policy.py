"""A language model that one computes by hand: its next-token logits are a table's rows.

The logits after a token depend on that token and on the sum of the prompt, so that group sharing
and the cache have something to get wrong.
"""

import dataclasses

import jax
import jax.numpy as jnp

from decoding.policy import Policy


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ToyCache:
    """Sums [1, B, G], or [1, R] after some rows are left out."""

    prompt_sum: jax.Array  # that of each row's prompt
    seen: jax.Array  # sum of the response so far


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ToyPolicy(Policy):
    """hidden = [one-hot of the last token, prompt sum, response sum]; logits = hidden @ table."""

    table: jax.Array  # [V + 2, V]

    @property
    def vocab_rows(self):
        return self.table.shape[1]

    @property
    def max_positions(self):
        return 1_000_000

    @property
    def width(self):
        return self.table.shape[0]

    def _hidden(self, last, prompt_sum, seen):
        one_hot = jax.nn.one_hot(last, self.vocab_rows)
        extra = jnp.stack([jnp.sin(prompt_sum * 1.0), jnp.sin(seen * 1.0)], axis=-1)
        return jnp.concatenate([one_hot, extra], axis=-1)

    def prefill(self, prompts, lengths):
        real = jnp.arange(prompts.shape[1])[None] < lengths[:, None]
        prompt_sum = jnp.where(real, prompts, 0).sum(axis=1)
        last = jnp.take_along_axis(prompts, lengths[:, None] - 1, axis=1)[:, 0]
        return self._hidden(last, prompt_sum, jnp.zeros_like(prompt_sum)), prompt_sum

    def extend(self, tokens, counts, cache):
        real = jnp.arange(tokens.shape[1])[None] < counts[:, None]
        prompt_sum = cache + jnp.where(real, tokens, 0).sum(axis=1)
        last = jnp.take_along_axis(tokens, counts[:, None] - 1, axis=1)[:, 0]
        return self._hidden(last, prompt_sum, jnp.zeros_like(prompt_sum)), prompt_sum

    def start(self, num_prompts, group_size, *, size, capacity):
        del size, capacity
        zeros = jnp.zeros((1, num_prompts, group_size), jnp.int32)
        return ToyCache(prompt_sum=zeros, seen=zeros)

    def enter(self, cache, numbers, prompt_cache, place):
        del place
        return ToyCache(
            prompt_sum=cache.prompt_sum.at[0, numbers[0]].set(prompt_cache[:, None]),
            seen=cache.seen.at[0, numbers[0]].set(0),
        )

    def keep(self, cache, rows):
        return jax.tree.map(lambda x: x.reshape(1, -1)[:, rows[0]], cache)

    def decode(self, tokens, steps, cache):
        del steps
        seen = cache.seen.reshape(tokens.shape) + tokens
        hidden = self._hidden(tokens, cache.prompt_sum.reshape(tokens.shape), seen)
        return self.unembed(hidden), ToyCache(cache.prompt_sum, seen.reshape(cache.seen.shape))

    def score(self, prompts, lengths, responses, places=None):
        first, prompt_sum = self.prefill(prompts, lengths)
        if places is None:
            places = jnp.broadcast_to(jnp.arange(responses.shape[2])[None, None], responses.shape)
        # Token p sees token q of its row if q is not after p, and not before p's response.
        at = jnp.arange(responses.shape[2])
        p, q = at[None, None, :, None], at[None, None, None]
        sees = (q <= p) & (q >= p - places[..., None])
        seen = jnp.where(sees, responses[:, :, None], 0).sum(axis=-1)
        sums = jnp.broadcast_to(prompt_sum[:, None, None], responses.shape)
        hidden = self._hidden(responses, sums, seen)
        return jnp.where(places[..., None] == 0, first[:, None, None], jnp.roll(hidden, 1, axis=2))

    def unembed(self, hidden):
        return hidden @ self.table

    def unembed_at(self, hidden, tokens):
        return jnp.einsum("...d,...kd->...k", hidden, self.table.T[tokens])


def random_toy_policy(seed, num_rows, scale=2.0):
    """Return a ToyPolicy with normal logits."""
    key = jax.random.key(seed)
    return ToyPolicy(table=scale * jax.random.normal(key, (num_rows + 2, num_rows)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IndifferentPolicy(ToyPolicy):
    """A policy to which all tokens are equally likely: greedy takes the lowest allowed number.

    The token that ends a span has a high number, so spans go on while there is something to copy.
    """

    table: jax.Array = dataclasses.field(default_factory=lambda: jnp.zeros((770, 768)))

    @property
    def max_positions(self):
        return 512
