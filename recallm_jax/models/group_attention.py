"""Attention of prompts and of their responses, split over devices.

Devices may split the tokens of prompts, the rows of responses, and heads. Queries stay on their
device. The prompt keys and values of a layer, few under grouped-query attention, are gathered along
the prompt while the layer attends. Keys and values of responses stay on their device, which alone
reads them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from recallm_jax.models import cudnn, splash
from recallm_jax.models.attention import Projected, attend, attend_from, merge
from recallm_jax.models.kv_cache import PROMPT_BLOCK
from recallm_jax.models.placement import Placement
from recallm_jax.models.row_attention import attend_rows

# The name of attention's results in rematerialisation policies.
ATTENTION = "attention"


class _Part(NamedTuple):
    """The splitting of prompts over devices, into `parts` parts along mesh axes; static."""

    axes: tuple[str, ...]
    parts: int
    # How splash attention runs; None for attention by plain XLA.
    kernel: splash.Kernel | None
    # Whether cuDNN computes what it can.
    cudnn: bool


WHOLE = _Part((), 1, None, cudnn=False)


def padded_sizes(size: int, length: int, placement: Placement | None) -> tuple[int, int]:
    """Return S and T, rounded up so that they split over devices and into blocks."""
    if placement is None:
        return size, length
    parts = placement.whole_parts("length")
    multiple = splash.tile(size, parts) if placement.splash else parts
    own_multiple = splash.tile(length, 1) if placement.splash else 1
    return -(-size // multiple) * multiple, -(-length // own_multiple) * own_multiple


def prompt_sizes(size: int, placement: Placement | None) -> tuple[int, ...]:
    """Return the lengths, ascending, that prompts of at most `size` tokens are padded to.

    There are few, because a program is compiled for each, and successive ones differ by a third or
    a half. They split over devices, and their parts into blocks of the cache, if there are several.
    """
    longest, _ = padded_sizes(size, 0, placement)
    unit = PROMPT_BLOCK * (1 if placement is None else placement.whole_parts("length"))
    if longest <= 2 * unit:
        return (longest,)

    def rounded(wanted: int) -> int:
        return padded_sizes(-(-wanted // unit) * unit, 0, placement)[0]

    sizes, divisor = {rounded(longest)}, 1
    while longest > divisor * unit:
        sizes |= {rounded(-(-longest // divisor)), rounded(-(-3 * longest // (4 * divisor)))}
        divisor *= 2
    return tuple(sorted(sizes))


def attend_prompt(prompt: Projected, placement: Placement | None) -> Float[Array, "B S N H"]:
    """Attend causally within prompts."""
    if placement is None:
        return _prompt_part(prompt, WHOLE)
    prompt = _key_heads_as_queries(prompt, placement)
    specs = _specs(prompt, ("batch", "length"), placement)
    part = _part(prompt, placement)

    def local(prompt):
        return _prompt_part(_whole(prompt, part), part)

    return _on_devices(local, placement, (specs,), specs.query)(prompt)


def attend_group(
    prompt: Projected,
    own: Projected,
    lengths: Int[Array, " B"],
    places: Int[Array, "B R P"] | None,
    placement: Placement | None,
) -> tuple[Float[Array, "B S N H"], Float[Array, "B R P N H"]]:
    """Attend causally within prompts, and from responses to their prompt and to themselves.

    Args:
      own: the tokens of responses, in rows [B, R, P].
      lengths: the number of prompt tokens that responses see, the first ones.
      places: the number of each token in its response; None if each row is one response.
    """
    if placement is None:
        return _named(_group_part(prompt, own, lengths, places, WHOLE))
    prompt, own = (_key_heads_as_queries(one, placement) for one in (prompt, own))
    specs = _specs(prompt, ("batch", "length"), placement)
    own_specs = _specs(own, ("batch", "group", None), placement)
    local = functools.partial(_group_part, part=_part(prompt, placement))
    batch = placement.spec(["batch"], lengths.shape)
    rows = None if places is None else placement.spec(["batch", "group", None], places.shape)
    inputs, outputs = (specs, own_specs, batch, rows), (specs.query, own_specs.query)
    mixed = _on_devices(local, placement, inputs, outputs)(prompt, own, lengths, places)
    # The kernel names its results itself.
    return mixed if placement.splash else _named(mixed)


def attend_after(
    own: Projected,
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    lengths: Int[Array, " B"],
) -> Float[Array, "B R P N H"]:
    """Attend from rows to their cached prompt, and causally to themselves.

    The compiler splits it over devices as it finds fit: it is for a few tokens, such as a question.
    """
    among = attend_rows(*own, jnp.zeros(own.query.shape[:3], jnp.int32))
    queries = own.query.reshape(own.query.shape[0], -1, *own.query.shape[3:])
    key, value = (jnp.moveaxis(x, 1, 2) for x in (keys, values))
    shared = attend(queries, key, value, key_lengths=lengths)
    shared = (shared[0].reshape(among[0].shape), shared[1].reshape(among[1].shape))
    return merge(shared, among)


def _named(mixed):
    return jax.tree.map(lambda x: checkpoint_name(x, ATTENTION), mixed)


def _group_part(prompt: Projected, own: Projected, lengths, places, part: _Part):
    whole = _whole(prompt, part)
    mixed = _prompt_part(whole, part)
    if part.kernel is not None:
        keys = (whole.key, whole.value, lengths)
        return mixed, splash.attend_responses(own, *keys, places, part.kernel)
    starts = jnp.zeros(own.query.shape[:3], jnp.int32)
    if places is not None:
        starts += jnp.arange(places.shape[2])[None, None] - places
    among = attend_rows(*own, starts)
    queries = own.query.reshape(own.query.shape[0], -1, *own.query.shape[3:])
    shared = attend(queries, whole.key, whole.value, key_lengths=lengths)
    shared = (shared[0].reshape(among[0].shape), shared[1].reshape(among[1].shape))
    return mixed, merge(shared, among)


def _prompt_part(whole: Projected, part: _Part):
    """Attend causally with the queries of one part to the keys of all parts."""
    if part.kernel is not None:
        return splash.attend_causal(*whole, part.axes, part.parts, part.kernel)
    if part.parts == 1 and part.cudnn and cudnn.takes(whole.query):
        return cudnn.attend_causal(*whole)
    if part.parts == 1:
        return attend(*whole, causal=True)[0]
    first = lax.axis_index(part.axes) * whole.query.shape[1]
    return attend_from(*whole, first)


def _whole(prompt: Projected, part: _Part) -> Projected:
    """Return a part's queries with the keys and values of all parts."""
    if part.parts == 1:
        return prompt
    key, value = (
        lax.all_gather(x, part.axes, axis=1, tiled=True) for x in (prompt.key, prompt.value)
    )
    return Projected(prompt.query, key, value)


def _part(prompt: Projected, placement: Placement) -> _Part:
    axes, parts = placement.parts("length", prompt.query.shape[1])
    kernel = splash.Kernel(interpret=not placement.on_tpu) if placement.splash else None
    by_cudnn = placement.attention == "cudnn"
    return _Part(axes if parts > 1 else (), parts, kernel, by_cudnn)


def _key_heads_as_queries(tokens: Projected, placement: Placement) -> Projected:
    """Return keys and values split over devices as the queries are.

    If key heads are too few, they are repeated, one for each query head.
    """
    num_heads, num_kv_heads = tokens.query.shape[-2], tokens.key.shape[-2]
    _, parts = placement.parts("heads", num_heads)
    if num_kv_heads % parts == 0:
        return tokens
    key, value = (
        jnp.repeat(x, num_heads // num_kv_heads, axis=-2) for x in (tokens.key, tokens.value)
    )
    return Projected(tokens.query, key, value)


def _specs(tokens: Projected, stream: tuple, placement: Placement) -> Projected:
    def spec(x: Array) -> PartitionSpec:
        # Key heads too, which are split as query heads are.
        return placement.spec((*stream, "heads", None), x.shape)

    return jax.tree.map(spec, tokens)


def _on_devices(local, placement: Placement, in_specs, out_specs):
    return jax.shard_map(
        local, mesh=placement.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
