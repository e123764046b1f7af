"""Optimisers: the schedule, clipping, and the choice of parameters and rows to train."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

# The matrices with a row a token; of a model with adapters, the trained rows of these.
VOCABULARY = ("embedding", "output", "embedding_rows", "output_rows")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `learning_rate`, then a cosine to `final_fraction` of it at `steps`."""

    learning_rate: float
    steps: int
    warmup_fraction: float
    final_fraction: float = 0.1

    def __call__(self, step):
        """Return the learning rate of a step; the first step is 0."""
        warmup = round(self.warmup_fraction * self.steps)
        schedule = optax.warmup_cosine_decay_schedule(
            # The first step of a warm-up of n has 1/(n + 1) of the peak: no step is wasted at 0.
            init_value=self.learning_rate / (warmup + 1),
            peak_value=self.learning_rate,
            warmup_steps=warmup,
            decay_steps=max(self.steps, warmup + 1),
            end_value=self.learning_rate * self.final_fraction,
        )
        return schedule(step)


def adamw(
    schedule: Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """Return AdamW after a global-norm clip, with state and arithmetic in float32."""
    return _in_float32(
        optax.chain(
            optax.clip_by_global_norm(clip_norm),
            optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay),
        )
    )


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Give the inner optimiser float32 trees; a bfloat16 second moment would never change."""

    def cast(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(updates, state, params=None):
        return inner.update(cast(updates), state, None if params is None else cast(params))

    return optax.GradientTransformation(lambda params: inner.init(cast(params)), update)


def train_rows_only(
    inner: optax.GradientTransformation, rows: tuple[int, ...]
) -> optax.GradientTransformation:
    """Train only some rows of the embedding, and of the output matrix if it is untied.

    The inner optimiser gets only these rows, so its state, its clipping and its weight decay apply
    to them alone. Parameters are a tree with one or two of the leaves in `VOCABULARY`, [V, D].

    Raises:
      ValueError: on `init`, if the parameters have neither leaf or lack some of these rows.
    """
    picked = np.asarray(rows, np.int32)

    def pick(tree):
        return {name: value[picked] for name, value in vocabulary_matrices(tree).items()}

    def init(params):
        matrices = vocabulary_matrices(params)
        if not matrices or not rows:
            raise ValueError(
                f"no rows to train: {len(rows)} row numbers for the matrices {list(matrices)}; "
                "the parameters need `embedding`"
            )
        for name, value in matrices.items():
            if min(rows) < 0 or max(rows) >= value.shape[0]:
                raise ValueError(
                    f"rows {list(rows)} to train are not all in `{name}`, which has "
                    f"{value.shape[0]}; add the new tokens' rows to the model first"
                )
        return inner.init(pick(params))

    def update(updates, state, params=None):
        small, state = inner.update(pick(updates), state, None if params is None else pick(params))

        def place(path, update):
            name = _name(path)
            if name in small:
                return jnp.zeros_like(update).at[picked].set(small[name].astype(update.dtype))
            return jnp.zeros_like(update)

        return jax.tree_util.tree_map_with_path(place, updates), state

    return optax.GradientTransformation(init, update)


def vocabulary_matrices(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree of parameters that are named in `VOCABULARY`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves if _name(path) in VOCABULARY}


def with_matrices(tree: Any, matrices: dict[str, Any]) -> Any:
    """Return a tree of parameters with other leaves for the given names."""
    return jax.tree.map_with_path(lambda path, leaf: matrices.get(_name(path), leaf), tree)


def _name(path) -> str:
    """Return the first key of a tree path: the name of a top-level parameter."""
    key = path[0]
    return str(getattr(key, "name", getattr(key, "key", key)))
