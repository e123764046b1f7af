"""One decoder for Llama, Qwen2/2.5, Qwen3 and SmolLM2: the `Policy` of `decoding/policy.py`.

Layers are stacked on a leading axis and scanned, so that compile time does not grow with depth.
Matrices are stored [in, out].
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from recallm_jax.models.attention import Projected, attend_blocks, attend_prompts
from recallm_jax.models.group_attention import (
    ATTENTION,
    attend_after,
    attend_group,
    attend_prompt,
    padded_sizes,
    prompt_sizes,
)
from recallm_jax.models.kv_cache import (
    AT_ONCE,
    PROMPT_BLOCK,
    PROMPTS,
    RESPONSES,
    Cache,
    CacheSizes,
    PromptCache,
    blocks_of,
    empty_cache,
    entered,
    grown,
    kept,
    laid_out,
    unstacked,
    written,
)
from recallm_jax.models.output_matrix import AddedRows, OutputCopies
from recallm_jax.models.parameters import (
    ADDED_ROWS,
    Params,
    adapter_specs,
    divided_sizes,
    draw,
    layer_specs,
    top_specs,
)
from recallm_jax.models.placement import Placement
from recallm_jax.models.presets import ModelConfig
from recallm_jax.models.rope import rotate, rotation

# The logical axes of activations: of prompts, of responses, and of one step of decoding.
PROMPT = ("batch", "length")
OWN = ("batch", "group", None)
STEP = ("batch", None)
# The same axes in the residual stream, which has no axis of heads or MLP to split.
RESIDUAL = {
    PROMPT: ("batch", "residual_length"),
    OWN: ("batch", "residual_group", None),
    STEP: STEP,
}
# A layer's keys and values after prefill.
PROMPT_CACHE = ("batch", "kv_heads", "length", None)


class Layers(nnx.Module):
    """The parameters of all layers, each [L, ...]; inside a scan, those of one layer."""

    def __init__(self, params: Params):
        for name, value in params.items():
            setattr(self, name, nnx.Param(value))


class Transformer(nnx.Module):
    """A causal language model over groups of continuations; see `decoding.policy.Policy`."""

    embedding: nnx.Param
    final_norm: nnx.Param

    def __init__(
        self,
        config: ModelConfig,
        top: Params,
        layers: Params,
        placement: Placement | None = None,
    ):
        """Wrap arrays that have the shapes of `top_specs` and `layer_specs`.

        Args:
          placement: how arrays are laid out on a mesh; None leaves it to the compiler.
        """
        for params, specs in ((top, top_specs(config)), (layers, layer_specs(config))):
            shapes = {name: tuple(value.shape) for name, value in params.items()}
            wanted = {name: spec.shape for name, spec in specs.items()}
            if shapes != wanted:
                raise ValueError(f"parameters have the shapes {shapes}; the sizes ask for {wanted}")
        self.config = config
        self.placement = placement
        for name, value in top.items():
            setattr(self, name, nnx.Param(value))
        self.layers = Layers(layers)

    def with_config(self, config: ModelConfig) -> "Transformer":
        """Return a model of the same arrays with other options; the sizes must stay."""
        return Transformer(config, *self._params(), self.placement)

    def with_placement(self, placement: Placement) -> "Transformer":
        """Return a model of the same arrays that lays its activations out by a placement."""
        return Transformer(self.config, *self._params(), placement)

    def _params(self) -> tuple[Params, Params]:
        """Return the arrays outside the layers, and those of the layers."""
        top = {name: getattr(self, name).get_value() for name in top_specs(self.config)}
        layers = layer_specs(self.config)
        return top, {name: getattr(self.layers, name).get_value() for name in layers}

    def trained(self) -> "Transformer | Params":
        """Return the parameters that updates change: all, or the adapters by name."""
        names = adapter_specs(self.config)
        if not names:
            return self
        top, layers = self._params()
        return {name: value for name, value in {**top, **layers}.items() if name in names}

    def with_trained(self, trained: "Transformer | Params") -> "Transformer":
        """Return this model with other values of what `trained` returns."""
        if isinstance(trained, Transformer):
            return trained
        top, layers = (
            {name: trained.get(name, value) for name, value in params.items()}
            for params in self._params()
        )
        return Transformer(self.config, top, layers, self.placement)

    @property
    def vocab_rows(self) -> int:
        """V, the rows of the embedding, which may exceed the tokenizer's entries."""
        return self.config.vocab_rows

    @property
    def max_positions(self) -> int:
        """The most tokens that a prompt and its response may have together."""
        return self.config.max_positions

    @property
    def width(self) -> int:
        """D, the size of a hidden state."""
        return self.config.width

    def prefill(
        self, prompts: Int[Array, "B S"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B D"], PromptCache]:
        """Return the hidden state at each prompt's last token, and the prompt's cache.

        The cache holds more than S tokens if devices can't split S.
        """
        prompts = _padded(prompts, padded_sizes(prompts.shape[1], 0, self.placement)[0])
        cos_sin = rotation(self.config, jnp.arange(prompts.shape[1])[None])

        def block(x, layer):
            params = self._gathered(layer)
            projected = self._project(params, x, cos_sin, PROMPT)
            mixed = attend_prompt(projected, self.placement)
            cached = (jnp.moveaxis(part, 2, 1) for part in (projected.key, projected.value))
            cached = tuple(self._laid_out(part, *PROMPT_CACHE) for part in cached)
            return self._residual(params, x, mixed, PROMPT), cached

        x, (keys, values) = lax.scan(block, self._embed(prompts, PROMPT), self.layers)
        last = self._norm(_at(x, lengths - 1), self.final_norm[...])
        return last, PromptCache(keys, values, lengths)

    def extend(
        self, tokens: Int[Array, "B C"], counts: Int[Array, " B"], cache: PromptCache
    ) -> tuple[Float[Array, "B D"], PromptCache]:
        """Return what `prefill` does for prompts with more tokens at their ends."""
        batch, size = tokens.shape
        number = jnp.arange(size, dtype=jnp.int32)[None]
        positions = cache.lengths[:, None] + number
        cos_sin = rotation(self.config, positions[:, None])
        # Padding is written nowhere.
        places = jnp.where(number < counts[:, None], positions, cache.keys.shape[3])
        rows = jnp.arange(batch, dtype=jnp.int32)[:, None]

        def block(x, inputs):
            layer, keys, values = inputs
            params = self._gathered(layer)
            projected = self._project(params, x, cos_sin, OWN)
            mixed = attend_after(projected, keys, values, cache.lengths)

            def longer(cached, new):
                new = new[:, 0].astype(cached.dtype)
                return self._laid_out(
                    cached.at[rows, :, places].set(new, mode="drop"), *PROMPT_CACHE
                )

            cached = longer(keys, projected.key), longer(values, projected.value)
            return self._residual(params, x, mixed, OWN), cached

        x = self._embed(tokens[:, None], OWN)
        x, (keys, values) = lax.scan(block, x, (self.layers, cache.keys, cache.values))
        last = self._norm(_at(x[:, 0], counts - 1), self.final_norm[...])
        return last, PromptCache(keys, values, cache.lengths + counts)

    def parts(self, num_prompts: int) -> int:
        """Return A, the number of equal parts that devices split a batch of prompts into."""
        return 1 if self.placement is None else self.placement.parts("batch", num_prompts)[1]

    def prompt_sizes(self, size: int) -> tuple[int, ...]:
        """Return the lengths, ascending, that prompts of at most `size` tokens are padded to."""
        return prompt_sizes(size, self.placement)

    def start(self, num_prompts: int, group_size: int, *, size: int, capacity: int) -> Cache:
        """Return a cache without prompts, and with room for them and for G rows each."""
        config, parts = self.config, self.parts(num_prompts)
        stretches = 1 if self.placement is None else self.placement.whole_parts("length")
        sizes = self.prompt_sizes(size)
        block = PROMPT_BLOCK if len(sizes) > 1 else sizes[0] // stretches
        blocks = num_prompts // parts * sizes[-1] // stretches // block
        cache = empty_cache(
            config.num_layers,
            config.num_kv_heads,
            config.head_dim,
            config.dtype,
            CacheSizes(
                parts=parts,
                prompts=num_prompts // parts,
                group_size=group_size,
                stretches=stretches,
                prompt_blocks=blocks if blocks <= AT_ONCE else -(-blocks // AT_ONCE) * AT_ONCE,
                prompt_block=block,
                capacity=capacity,
            ),
        )
        cache = self._placed(cache)
        if self.config.unstack_decode:
            return unstacked(cache, self.layers, self.config.num_layers)
        return cache

    def enter(
        self,
        cache: Cache,
        numbers: Int[Array, "A k"],
        prompt_cache: PromptCache,
        place: Int[Array, ""],
    ) -> Cache:
        """Return the cache with k prompts more in each part, or in the place of others."""
        block = jax.tree.leaves(cache.prompt_keys)[0].shape[-2]
        blocks = place // (cache.shelf.first.shape[2] * block)
        return self._placed(entered(cache, numbers, prompt_cache, blocks))

    def grow(self, cache: Cache, capacity: int) -> Cache:
        """Return the cache with room for `capacity` tokens of each row, and free the given one."""
        return grown(cache, capacity, self.placement)

    def keep(self, cache: Cache, rows: Int[Array, "A R"]) -> Cache:
        """Return the cache of some rows of each part and of their prompts; free the given one."""
        return kept(cache, rows, self.placement)

    def _placed(self, cache: Cache) -> Cache:
        def placed(arrays: Any, axes: tuple[str | None, ...]) -> Any:
            return jax.tree.map(lambda x: laid_out(x, axes, self.placement), arrays)

        return dataclasses.replace(
            cache,
            prompt_keys=placed(cache.prompt_keys, PROMPTS),
            prompt_values=placed(cache.prompt_values, PROMPTS),
            keys=placed(cache.keys, RESPONSES),
            values=placed(cache.values, RESPONSES),
        )

    def decode(
        self,
        tokens: Int[Array, "A R"],
        steps: Int[Array, ""] | Int[Array, "A R"],
        cache: Cache,
    ) -> tuple[Float[Array, "A R V"], Cache]:
        """Feed one token a row; return the next token's logits and the cache with it."""
        seats, shelf, num_blocks = cache.seats, cache.shelf, cache.blocks[0]
        lengths = jax.vmap(lambda of_part, prompt: of_part[prompt])(shelf.lengths, seats.prompt)
        cos_sin = rotation(self.config, lengths + steps)
        seen = jnp.atleast_2d(steps)

        at_once = min(AT_ONCE, shelf.owner.shape[1])

        def mixed(query, prompts, responses, layer=None):
            def read_prompts(number):
                return tuple(blocks_of(part, number, at_once, layer) for part in prompts)

            def read(number):
                return tuple(blocks_of(part, number, 1, layer)[0] for part in responses)

            seated = self._laid_out(seats.seated(query), "batch", None, None, "heads", None)
            prompt = attend_prompts(seated, read_prompts, shelf, at_once)
            prompt = (seats.risen(prompt[0]), seats.risen(prompt[1]))
            return attend_blocks(query, prompt, read, num_blocks, seen)

        def stacked_block(carry, inputs):
            x, keys, values = carry
            number, layer = inputs
            params = self._stored(layer)
            projected = self._project(params, x, cos_sin, STEP)
            # The cache is in the carry, so that the loop updates it in place.
            keys = written(keys, projected.key, steps, number)
            values = written(values, projected.value, steps, number)
            prompts = (cache.prompt_keys, cache.prompt_values)
            out = mixed(projected.query, prompts, (keys, values), number)
            return (self._residual(params, x, out, STEP), keys, values), None

        x = self._embed(tokens, STEP)
        if cache.stacked:
            numbers = jnp.arange(self.config.num_layers, dtype=jnp.int32)
            (x, keys, values), _ = lax.scan(
                stacked_block, (x, cache.keys, cache.values), (numbers, self.layers)
            )
        else:
            layers = []
            for number, layer in enumerate(cache.layers):
                params = self._stored(layer)
                projected = self._project(params, x, cos_sin, STEP)
                both = (
                    written(cache.keys[number], projected.key, steps),
                    written(cache.values[number], projected.value, steps),
                )
                prompts = (cache.prompt_keys[number], cache.prompt_values[number])
                x = self._residual(params, x, mixed(projected.query, prompts, both), STEP)
                layers.append(both)
            keys, values = zip(*layers, strict=True)
        logits = self.unembed(self._norm(x, self.final_norm[...]))
        # A row is sampled by one device, which gathers its logits, not the output matrix.
        logits = self._laid_out(self._laid_out(logits, *STEP, "vocab"), "batch", "sampled", None)
        return logits, dataclasses.replace(cache, keys=keys, values=values)

    def score(
        self,
        prompts: Int[Array, "B S"],
        lengths: Int[Array, " B"],
        responses: Int[Array, "B R P"],
        places: Int[Array, "B R P"] | None = None,
    ) -> Float[Array, "B R P D"]:
        """Return the hidden states that predict each response token.

        The prompt's tokens pass the layers once, together with the tokens of all responses.
        """
        length = responses.shape[2]
        sizes = padded_sizes(prompts.shape[1], length, self.placement)
        prompts, responses = _padded(prompts, sizes[0]), _padded(responses, sizes[1])
        cos_sin = rotation(self.config, jnp.arange(sizes[0])[None])
        if places is None:
            own_places = jnp.arange(sizes[1])[None, None]
        else:
            own_places = places = _padded(places, sizes[1])
        own_cos_sin = rotation(self.config, lengths[:, None, None] + own_places)

        def block(carry, layer):
            prompt, own = carry
            params = self._gathered(layer)
            mixed, own_mixed = attend_group(
                self._project(params, prompt, cos_sin, PROMPT),
                self._project(params, own, own_cos_sin, OWN),
                lengths,
                places,
                self.placement,
            )
            prompt = self._residual(params, prompt, mixed, PROMPT)
            return (prompt, self._residual(params, own, own_mixed, OWN)), None

        carry = (self._embed(prompts, PROMPT), self._embed(responses, OWN))
        (prompt, own), _ = lax.scan(_remat(block, self.config.remat), carry, self.layers)
        last = _at(prompt, lengths - 1)[:, None, None]
        before = jnp.pad(own, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :length]
        hidden = jnp.where(own_places[:, :, :length, None] == 0, last, before)
        return self._laid_out(self._norm(hidden, self.final_norm[...]), *OWN, None)

    def unembed(self, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
        """Return the float32 logits of hidden states."""
        matrix = self._output_matrix().astype(hidden.dtype)
        logits = jnp.einsum("...d,vd->...v", hidden, matrix, preferred_element_type=jnp.float32)
        added = self._output_rows()
        return logits if added is None else added.to_logits(logits, hidden)

    def unembed_at(
        self, hidden: Float[Array, "*rows D"], tokens: Int[Array, "*rows K"]
    ) -> Float[Array, "*rows K"]:
        """Return the float32 logits of K tokens each."""
        rows = self._output_matrix()[tokens].astype(hidden.dtype)
        logits = jnp.einsum("...d,...kd->...k", hidden, rows, preferred_element_type=jnp.float32)
        added = self._output_rows()
        return logits if added is None else added.to_logits(logits, hidden, tokens)

    def gathered(self, num_prompts: int, parts: int) -> "Transformer | OutputCopies":
        """Gather the output matrix once for many calls of `unembed`."""
        if self.placement is None:
            return self
        spec = top_specs(self.config)["embedding"]
        matrix = self.placement.gather(self._output_matrix(), spec.axes, spec.shape)
        copies = (
            self.placement.parts("batch", num_prompts)[1],
            self.placement.parts("group", parts)[1],
        )
        matrix = jnp.broadcast_to(matrix[None, None], (*copies, *matrix.shape))
        matrix = self.placement.constrain_used(matrix, ("batch", "group", "vocab", None))
        return OutputCopies(matrix, self._output_rows())

    def _output_matrix(self):
        return (self.embedding if self.config.tie_embeddings else self.output)[...]

    def _output_rows(self) -> AddedRows | None:
        """Return what is added to the output matrix's trained rows, if not all are trained."""
        return self._added_rows(ADDED_ROWS[0 if self.config.tie_embeddings else 1])

    def _added_rows(self, name: str) -> AddedRows | None:
        lora = self.config.lora
        return None if lora is None else AddedRows(getattr(self, name)[...], lora.rows)

    def _embed(self, tokens, stream):
        x = self.embedding[...].astype(self.config.dtype)[tokens]
        if (added := self._added_rows(ADDED_ROWS[0])) is not None:
            x = added.to_embedded(x, tokens)
        # Each device looks all tokens up in its part of the matrix, and then sends the results to
        # the devices that need them. So the matrix is never gathered.
        x = self._laid_out(x, "looked_up", *(None,) * (x.ndim - 2), "embed")
        # One axis at a time: both at once would gather the whole array on the way.
        x = self._laid_out(x, "looked_up", *stream[1:], "looked_up_width")
        x = self._laid_out(x, *stream, None)
        return self._laid_out(x, *RESIDUAL[stream], None)

    def _laid_out(self, x, *axes):
        """Lay an activation out by its logical axes.

        Otherwise the compiler may split activations as parameters are split, and hold the whole
        batch on every device.
        """
        return x if self.placement is None else self.placement.constrain(x, axes)

    def _stored(self, layer: Layers) -> dict[str, Array]:
        """Return a layer's parameters in the compute dtype; norms stay as they are."""
        return {
            name: _computed(name, getattr(layer, name)[...], self.config)
            for name in layer_specs(self.config)
        }

    def _gathered(self, layer: Layers) -> dict[str, Array]:
        """Return a layer's parameters in the compute dtype, laid out for many tokens."""
        params = self._stored(layer)
        if self.placement is None:
            return params
        specs = layer_specs(self.config)
        return {
            name: self.placement.gather(
                value, specs[name].axes[1:], divided_sizes(self.config, specs[name])[1:]
            )
            for name, value in params.items()
        }

    def _norm(self, x, scale):
        x32 = x.astype(jnp.float32)
        mean_square = jnp.square(x32).mean(axis=-1, keepdims=True)
        scale = scale.astype(jnp.float32)[(None,) * (x.ndim - 1)]
        return (x32 * lax.rsqrt(mean_square + self.config.norm_eps) * scale).astype(x.dtype)

    def _project(self, params, x, cos_sin, stream) -> Projected:
        """Return rotated queries [*tokens, N, H] and keys, and values [*tokens, K, H]."""
        config = self.config
        normed = self._laid_out(self._norm(x, params["attention_norm"]), *stream, None)

        def heads(name, num_heads, axis):
            out = self._times(normed, params, name)
            if config.qkv_bias:
                out = out + params[f"{name}_bias"][(None,) * (out.ndim - 1)]
            out = out.reshape(*x.shape[:-1], num_heads, config.head_dim)
            return self._laid_out(out, *stream, axis, None)

        query = heads("query", config.num_heads, "heads")
        key = heads("key", config.num_kv_heads, "kv_heads")
        if config.qk_norm:
            query = self._norm(query, params["query_norm"])
            key = self._norm(key, params["key_norm"])
        value = heads("value", config.num_kv_heads, "kv_heads")
        return Projected(rotate(query, *cos_sin), rotate(key, *cos_sin), value)

    def _residual(self, params, x, mixed, stream):
        """Add attention's output and the gated MLP to the residual stream."""
        residual = (*RESIDUAL[stream], None)
        flat = mixed.reshape(*x.shape[:-1], -1)
        x = self._laid_out(x + self._times(flat, params, "attention_output"), *residual)
        normed = self._laid_out(self._norm(x, params["mlp_norm"]), *stream, None)
        gate, up = (self._times(normed, params, name) for name in ("gate", "up"))
        hidden = nnx.silu(gate) * up
        return self._laid_out(x + self._times(hidden, params, "down"), *residual)

    def _times(self, x, params, name):
        """Multiply activations by a matrix of a layer, with its adapter if it has one."""
        out, lora = x @ params[name], self.config.lora
        if lora is None or name not in lora.matrices:
            return out
        return out + (lora.scale * (x @ params[f"{name}_a"])) @ params[f"{name}_b"]


def _computed(name: str, value: Array, config: ModelConfig) -> Array:
    return value if name.endswith("_norm") else value.astype(config.dtype)


def _padded(tokens: Int[Array, "*rows X"], size: int) -> Int[Array, "*rows size"]:
    return jnp.pad(tokens, [(0, 0)] * (tokens.ndim - 1) + [(0, size - tokens.shape[-1])])


def _at(x: Float[Array, "B S D"], places: Int[Array, " B"]) -> Float[Array, "B D"]:
    """Return the state of one token of each prompt, by a sum that devices can share over S."""
    here = jnp.arange(x.shape[1])[None] == places[:, None]
    return jnp.where(here[..., None], x, 0).sum(axis=1)


def _remat(block, policy: str):
    if policy == "none":
        return block
    policies = {
        "full": None,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "attention": jax.checkpoint_policies.save_only_these_names(ATTENTION),
    }
    return jax.checkpoint(block, policy=policies[policy], prevent_cse=False)


def random_transformer(config: ModelConfig, key: Array) -> Transformer:
    """Draw a model with normal float32 weights, for tests and tiny runs."""
    top_key, layer_key = jax.random.split(key)
    return Transformer(
        config, draw(top_specs(config), top_key), draw(layer_specs(config), layer_key)
    )
