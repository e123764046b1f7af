"""GRPO in one file: a tiny policy learns to quote the asked value inside a recall span.

    python examples/tiny_grpo.py

A prompt is four pairs of a key and a value of two tokens, then one of the keys. The right response
is START value END STOP. The policy starts at random; in half a minute on a CPU the reward rises
from 0 to above 0.99. It uses `decoding` and `rl` alone: nothing here knows of text.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from decoding.decode_loop import Limits
from decoding.driver import decode_at_once
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import SpanRules
from rl.advantages import group_relative
from rl.batch import Batch
from rl.learner import PolicyLoss, Scoring, init_state, policy_update
from rl.packing import one_a_row

# Token ids: keys 0 to 7, values 8 to 27, then three special tokens.
KEYS, VALUES, START, END, STOP, VOCAB = 8, 20, 28, 29, 30, 31
# B prompts with G responses each, of at most T tokens.
PAIRS, WIDTH, B, G, T = 4, 32, 16, 16, 8
RULES = SpanRules(START, END, VOCAB, barriers=(STOP,), max_length=4)
LIMITS = Limits(RULES, max_new_tokens=T, stop_tokens=(STOP,))
SCORING = Scoring(RULES, budget=T, temperature=1.0, chunk=T)
LOSS = PolicyLoss(clip_low=0.2, clip_high=0.2, kl_coefficient=0.0, importance_cap=2.0)
OPTIMIZER = optax.adam(1e-2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TinyPolicy(Policy):
    """A bigram model with one attention read of the prompt.

    The prompt's last token, the asked key, attends to the tokens that follow each key. What it
    reads is the whole cache: hidden = A[last token] + g[last token] * read, logits = hidden E^T.
    """

    embedding: jax.Array  # E [V, D]
    bigram: jax.Array  # A [V, D]
    query: jax.Array  # [D, D]
    key: jax.Array  # [D, D]
    gate: jax.Array  # g [V, 1]
    vocab_rows, width, max_positions = VOCAB, WIDTH, 64

    def prefill(self, prompts, lengths):
        """Return the hidden state at each prompt's last token, and the cache: the read [B, D]."""
        embedded, last = self.embedding[prompts], prompts[:, -1]
        # All prompts have the same length. The query finds a token by the one before it.
        query, keys = embedded[:, -1] @ self.query, embedded[:, :-2] @ self.key
        weights = jax.nn.softmax(jnp.einsum("bd,bsd->bs", query, keys))
        read = jnp.einsum("bs,bsd->bd", weights, embedded[:, 1:-1])
        return self.bigram[last] + self.gate[last] * read, read

    def start(self, num_prompts, group_size, **sizes):
        """Return the cache of all rows, [1, B, G, D]: responses add nothing to their prompts'."""
        return jnp.zeros((1, num_prompts, group_size, WIDTH))

    def enter(self, cache, numbers, prompt_cache, place):
        """Return the cache with some prompts' reads."""
        return cache.at[0, numbers[0]].set(prompt_cache[:, None])

    def keep(self, cache, rows):
        """Return the cache of some rows."""
        return cache.reshape(1, -1, WIDTH)[:, rows[0]]

    def decode(self, tokens, steps, cache):
        """Return the logits after one more token of each row, [1, R, V]."""
        reads = cache.reshape(*tokens.shape, WIDTH)
        return self.unembed(self.bigram[tokens] + self.gate[tokens] * reads), cache

    def score(self, prompts, lengths, responses, places):
        """Return the hidden states that predict each response token, [B, R, P, D]."""
        first, read = self.prefill(prompts, lengths)
        later = self.bigram[responses] + self.gate[responses] * read[:, None, None]
        return jnp.where(places[..., None] == 0, first[:, None, None], jnp.roll(later, 1, axis=2))

    def unembed(self, hidden):
        """Return the logits of hidden states."""
        return hidden @ self.embedding.T

    def unembed_at(self, hidden, tokens):
        """Return the logits of some tokens alone."""
        return jnp.einsum("...d,...kd->...k", hidden, self.embedding[tokens])


def random_policy(key):
    """Return a policy with normal parameters; every token's gate is open."""
    rows = jax.random.normal(key, (2 * VOCAB + 2 * WIDTH, WIDTH)) / jnp.sqrt(WIDTH)
    parts = jnp.split(rows, [VOCAB, 2 * VOCAB, 2 * VOCAB + WIDTH])
    return TinyPolicy(*parts, gate=jnp.ones((VOCAB, 1)))


def random_prompts(key):
    """Return B prompts, of which values may be copied, and the right responses [B, 5]."""

    def one(key):
        of_keys, of_values, of_question = jax.random.split(key, 3)
        keys = jax.random.permutation(of_keys, KEYS)[:PAIRS, None]
        values = KEYS + jax.random.permutation(of_values, VALUES)[: 2 * PAIRS].reshape(PAIRS, 2)
        asked = jax.random.randint(of_question, (), 0, PAIRS)
        tokens = jnp.append(jnp.concatenate([keys, values], axis=1), keys[asked])
        return tokens, jnp.array([START, *values[asked], END, STOP])

    tokens, right = jax.vmap(one)(jax.random.split(key, B))
    values, lengths = tokens >= KEYS, jnp.full(B, tokens.shape[1])
    return Prompts(tokens, lengths, copyable=values, span_start=values, span_end=values), right


def reward_of(responses, right):
    """Return 0.2 for a response that is one span, and 0.4 for each right token in it; [B, G]."""
    one_span = responses[..., 0] == START
    ends = (responses[..., 2:5] == END) & (responses[..., 3:6] == STOP)
    right_tokens = (responses[..., 1:3] == right[:, None, 1:3]).sum(axis=-1)
    return one_span * (0.2 * ends.any(axis=-1) + 0.4 * right_tokens)


@jax.jit
def grpo_step(state, seed):
    """Sample groups, reward them, and update the policy once."""
    prompts, right = random_prompts(jax.random.fold_in(jax.random.key(seed), state.step))
    keys = row_keys(seed, state.step, jnp.arange(B), G)
    rollout = decode_at_once(state.policy, prompts, keys, Sampling(), LIMITS)
    rewards = reward_of(rollout.tokens, right)
    batch = Batch(rollout, advantages=group_relative(rewards)[..., None])
    state, metrics = policy_update(
        state, batch, optimizer=OPTIMIZER, scoring=SCORING, loss=LOSS, packing=one_a_row(B, G, T)
    )
    return state, metrics | {"reward": rewards.mean()}


def main(steps, seed=0):
    """Train, print the reward now and then, and return the rewards of all steps."""
    state = init_state(random_policy(jax.random.key(seed)), OPTIMIZER)
    rewards = []
    for step in range(steps):
        state, metrics = grpo_step(state, seed)
        rewards.append(float(metrics["reward"]))
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step:4}  reward {rewards[-1]:.3f}  entropy {metrics['entropy']:.3f}")
    return rewards


if __name__ == "__main__":
    main(steps=100)
