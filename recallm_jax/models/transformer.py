"""One decoder for Llama, Qwen2/2.5, Qwen3 and SmolLM2: the `Policy` of `decoding/policy.py`.

Layers are stacked on a leading axis and scanned, so that compile time does not grow with depth.
Matrices are stored [in, out].
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from recallm_jax.models.attention import attend, attend_cached, merge
from recallm_jax.models.kv_cache import (
    Cache,
    PromptCache,
    empty_responses,
    inserted,
    unstacked,
)
from recallm_jax.models.presets import ModelConfig
from recallm_jax.models.rope import rotate, rotation


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """Shape of a parameter with the logical name of each axis, and how it starts."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    # Standard deviation of a normal start; 0 is zeros. Norm scales start at `mean` 1.
    scale: float
    mean: float = 0.0


def top_specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Return the parameters outside the layers."""
    matrix = ParamSpec((config.vocab_rows, config.width), ("vocab", "embed"), 0.02)
    specs = {
        "embedding": matrix,
        "final_norm": ParamSpec((config.width,), (None,), 0.0, mean=1.0),
    }
    if not config.tie_embeddings:
        specs["output"] = matrix
    return specs


def layer_specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Return the parameters of the stacked layers; the leading axis is the layer."""
    width, mlp, head_dim = config.width, config.mlp_dim, config.head_dim
    query, key = config.num_heads * head_dim, config.num_kv_heads * head_dim
    small = 0.02 / math.sqrt(2 * config.num_layers)

    def matrix(rows, columns, axes, scale=0.02):
        return ParamSpec((config.num_layers, rows, columns), ("layers", *axes), scale)

    def vector(size, axis, mean):
        return ParamSpec((config.num_layers, size), ("layers", axis), 0.0, mean)

    specs = {
        "attention_norm": vector(width, None, 1.0),
        "query": matrix(width, query, ("embed", "heads")),
        "key": matrix(width, key, ("embed", "kv_heads")),
        "value": matrix(width, key, ("embed", "kv_heads")),
        "attention_output": matrix(query, width, ("heads", "embed"), small),
        "mlp_norm": vector(width, None, 1.0),
        "gate": matrix(width, mlp, ("embed", "mlp")),
        "up": matrix(width, mlp, ("embed", "mlp")),
        "down": matrix(mlp, width, ("mlp", "embed"), small),
    }
    if config.qkv_bias:
        specs["query_bias"] = vector(query, "heads", 0.0)
        specs["key_bias"] = vector(key, "kv_heads", 0.0)
        specs["value_bias"] = vector(key, "kv_heads", 0.0)
    if config.qk_norm:
        specs["query_norm"] = vector(head_dim, None, 1.0)
        specs["key_norm"] = vector(head_dim, None, 1.0)
    return specs


class Layers(nnx.Module):
    """The parameters of all layers, [L, ...] each; inside a scan, those of one."""

    def __init__(self, params: dict[str, Array]):
        for name, value in params.items():
            setattr(self, name, nnx.Param(value))


class Transformer(nnx.Module):
    """A causal language model over groups of continuations; see `decoding.policy.Policy`."""

    def __init__(self, config: ModelConfig, top: dict[str, Array], layers: dict[str, Array]):
        """Wrap arrays that have the shapes of `top_specs` and `layer_specs`."""
        for params, specs in ((top, top_specs(config)), (layers, layer_specs(config))):
            shapes = {name: tuple(value.shape) for name, value in params.items()}
            wanted = {name: spec.shape for name, spec in specs.items()}
            if shapes != wanted:
                raise ValueError(f"parameters have the shapes {shapes}; the sizes ask for {wanted}")
        self.config = config
        # Where activations [B, tokens, D] lie; None leaves it to the compiler.
        self.activation_sharding: NamedSharding | None = None
        for name, value in top.items():
            setattr(self, name, nnx.Param(value))
        self.layers = Layers(layers)

    def prefill(
        self, prompts: Int[Array, "B S"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B D"], PromptCache]:
        """Return the hidden state at each prompt's last token, and the prompt's cache."""
        cos_sin = rotation(self.config, jnp.arange(prompts.shape[1])[None])

        def block(x, layer):
            x = self._split(x)
            query, key, value = self._project(layer, x, cos_sin)
            mixed, _ = attend(query, key, value, causal=True)
            heads_first = (jnp.moveaxis(key, 2, 1), jnp.moveaxis(value, 2, 1))
            return self._residual(layer, x, mixed), heads_first

        x, (keys, values) = lax.scan(block, self._embed(prompts), self.layers)
        last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)[:, 0]
        return self._norm(last, self.final_norm[...]), PromptCache(keys, values, lengths)

    def start(self, prompt_cache: PromptCache, group_size: int, capacity: int) -> Cache:
        """Add an empty response part for G rows a prompt."""
        cache = empty_responses(prompt_cache, group_size, capacity)
        if self.config.unstack_decode:
            return unstacked(cache, self.layers, self.config.num_layers)
        return cache

    def insert(self, cache: Cache, slot: Int[Array, ""], other: Cache) -> Cache:
        """Return a cache whose prompt number `slot` is the only one of `other`."""
        return inserted(cache, slot, other)

    def decode(
        self, tokens: Int[Array, "B G"], steps: Int[Array, " B"], cache: Cache
    ) -> tuple[Float[Array, "B G V"], Cache]:
        """Feed one token a row; return the next token's logits and the cache with it."""
        batch, group_size = tokens.shape
        positions = jnp.broadcast_to((cache.lengths + steps)[:, None], tokens.shape)
        cos_sin = rotation(self.config, positions)
        rows = jnp.arange(batch)
        response_lengths = jnp.repeat(steps + 1, group_size)

        def mixed(query, prompt_keys, prompt_values, keys, values):
            own = attend_cached(
                query.reshape(batch * group_size, 1, *query.shape[2:]),
                keys.reshape(batch * group_size, *keys.shape[2:]),
                values.reshape(batch * group_size, *values.shape[2:]),
                response_lengths,
            )
            own = (own[0].reshape(query.shape), own[1].reshape(query.shape[:3]))
            return merge(attend_cached(query, prompt_keys, prompt_values, cache.lengths), own)

        def stacked_block(carry, inputs):
            x, keys, values = carry
            number, layer, prompt_keys, prompt_values = inputs
            query, key, value = self._project(layer, x, cos_sin)
            # Written into the carry, not stacked anew, so that the loop updates it in place.
            keys = keys.at[number, rows, :, :, steps].set(key)
            values = values.at[number, rows, :, :, steps].set(value)
            own = (
                lax.dynamic_index_in_dim(part, number, keepdims=False) for part in (keys, values)
            )
            out = mixed(query, prompt_keys, prompt_values, *own)
            return (self._residual(layer, x, out), keys, values), None

        x = self._embed(tokens)
        if not self.config.unstack_decode:
            numbers = jnp.arange(self.config.num_layers)
            prompt = (cache.prompt_keys, cache.prompt_values)
            (x, keys, values), _ = lax.scan(
                stacked_block, (x, cache.keys, cache.values), (numbers, self.layers, *prompt)
            )
        else:
            grown = []
            for number, layer in enumerate(cache.layers):
                query, key, value = self._project(layer, x, cos_sin)
                keys = cache.keys[number].at[rows, :, :, steps].set(key)
                values = cache.values[number].at[rows, :, :, steps].set(value)
                prompt = (cache.prompt_keys[number], cache.prompt_values[number])
                x = self._residual(layer, x, mixed(query, *prompt, keys, values))
                grown.append((keys, values))
            keys, values = zip(*grown, strict=True)
        hidden = self._norm(x, self.final_norm[...])
        return self.unembed(hidden), dataclasses.replace(cache, keys=keys, values=values)

    def score(
        self,
        prompts: Int[Array, "B S"],
        lengths: Int[Array, " B"],
        responses: Int[Array, "B G T"],
    ) -> Float[Array, "B G T D"]:
        """Return the hidden states that predict each response token.

        All matrix products run over the S + G * T tokens of a group at once.
        """
        batch, group_size, length = responses.shape
        size = prompts.shape[1]
        tokens = jnp.concatenate([prompts, responses.reshape(batch, -1)], axis=1)
        places = jnp.broadcast_to(jnp.arange(size)[None], prompts.shape)
        own_places = lengths[:, None, None] + jnp.arange(length)[None, None]
        own_places = jnp.broadcast_to(own_places, responses.shape).reshape(batch, -1)
        cos_sin = rotation(self.config, jnp.concatenate([places, own_places], axis=1))

        def split(x):
            own = x[:, size:]
            return x[:, :size], own, own.reshape(batch * group_size, length, *x.shape[2:])

        def block(x, layer):
            x = self._split(x)
            query, key, value = (split(part) for part in self._project(layer, x, cos_sin))
            prompt_mixed, _ = attend(query[0], key[0], value[0], causal=True)
            shared = attend(query[1], key[0], value[0], key_lengths=lengths)
            own = attend(query[2], key[2], value[2], causal=True)
            own = (own[0].reshape(shared[0].shape), own[1].reshape(shared[1].shape))
            mixed = jnp.concatenate([prompt_mixed, merge(shared, own)], axis=1)
            return self._residual(layer, x, mixed), None

        x, _ = lax.scan(_remat(block, self.config.remat), self._embed(tokens), self.layers)
        last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)
        last = jnp.broadcast_to(last[:, None], (batch, group_size, 1, x.shape[-1]))
        own = x[:, size:].reshape(batch, group_size, length, -1)
        hidden = jnp.concatenate([last, own[:, :, :-1]], axis=2)
        return self._norm(hidden, self.final_norm[...])

    def unembed(self, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
        """Return the float32 logits of hidden states."""
        matrix = self._output_matrix().astype(hidden.dtype)
        return jnp.einsum("...d,vd->...v", hidden, matrix, preferred_element_type=jnp.float32)

    def unembed_at(
        self, hidden: Float[Array, "*rows D"], tokens: Int[Array, "*rows K"]
    ) -> Float[Array, "*rows K"]:
        """Return the float32 logits of K tokens each."""
        rows = self._output_matrix()[tokens].astype(hidden.dtype)
        return jnp.einsum("...d,...kd->...k", hidden, rows, preferred_element_type=jnp.float32)

    def _output_matrix(self):
        return (self.embedding if self.config.tie_embeddings else self.output)[...]

    def _embed(self, tokens):
        return self._split(self.embedding[...].astype(self.config.dtype)[tokens])

    def _split(self, x):
        """Keep each device to its own prompts where they can be split evenly.

        Left alone, the compiler may split activations as it finds the parameters split, and hold
        the whole batch on every device.
        """
        sharding = self.activation_sharding
        if sharding is None:
            return x
        parts = math.prod(sharding.mesh.shape[axis] for axis in sharding.spec[0])
        return x if x.shape[0] % parts else lax.with_sharding_constraint(x, sharding)

    def _norm(self, x, scale):
        x32 = x.astype(jnp.float32)
        mean_square = jnp.square(x32).mean(axis=-1, keepdims=True)
        scale = scale.astype(jnp.float32)[(None,) * (x.ndim - 1)]
        return (x32 * lax.rsqrt(mean_square + self.config.norm_eps) * scale).astype(x.dtype)

    def _project(self, layer, x, cos_sin):
        """Return rotated queries [B, X, N, H] and keys, and values [B, X, K, H]."""
        config = self.config
        normed = self._norm(x, layer.attention_norm[...])

        def heads(name, num_heads):
            out = normed @ getattr(layer, name)[...].astype(x.dtype)
            if config.qkv_bias:
                out = out + getattr(layer, f"{name}_bias")[...].astype(x.dtype)[None, None]
            return out.reshape(*x.shape[:-1], num_heads, config.head_dim)

        query = heads("query", config.num_heads)
        key = heads("key", config.num_kv_heads)
        if config.qk_norm:
            query = self._norm(query, layer.query_norm[...])
            key = self._norm(key, layer.key_norm[...])
        return rotate(query, *cos_sin), rotate(key, *cos_sin), heads("value", config.num_kv_heads)

    def _residual(self, layer, x, mixed):
        """Add attention's output and the gated MLP to the residual stream."""
        flat = mixed.reshape(*x.shape[:-1], -1)
        x = x + flat @ layer.attention_output[...].astype(x.dtype)
        normed = self._norm(x, layer.mlp_norm[...])
        gate = nnx.silu(normed @ layer.gate[...].astype(x.dtype))
        hidden = gate * (normed @ layer.up[...].astype(x.dtype))
        return x + hidden @ layer.down[...].astype(x.dtype)


def _remat(block, policy: str):
    if policy == "none":
        return block
    policies = {
        "full": None,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }
    return jax.checkpoint(block, policy=policies[policy], prevent_cse=False)


def random_transformer(config: ModelConfig, key: Array) -> Transformer:
    """Return a model with normal float32 weights (for tests and tiny runs)."""

    def draw(specs, key):
        keys = jax.random.split(key, len(specs))
        return {
            name: spec.mean + spec.scale * jax.random.normal(k, spec.shape)
            for k, (name, spec) in zip(keys, specs.items(), strict=True)
        }

    top_key, layer_key = jax.random.split(key)
    return Transformer(
        config, draw(top_specs(config), top_key), draw(layer_specs(config), layer_key)
    )
