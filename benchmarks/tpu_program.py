"""The decode loop as the TPU compiler makes it: the operations of one step, and its memory.

    pip install libtpu==0.0.42.1
    python -m benchmarks.tpu_program --topology=v5e:2x2 --preset=smollm2-135m --prompt=8192

No TPU is needed: libtpu compiles for a described topology. The program is `decode`, with the
constraint and without, on the shapes of weights and prompts. For one step (the loop's body and all
that it calls) the table counts sorts and transfers to the host, and has the sizes of the largest
gather and scatter. Memory is the compiler's, per device. The table also has the memory of the
arrays that the loop carries, in the TPU's tiles.
"""

import dataclasses
import functools
import json
import math
import os
import re
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.report import make_parser, write_report
from decoding.decode_loop import Limits, start
from decoding.driver import decode_at_once
from decoding.prompts import Prompts
from decoding.sampling import Sampling
from decoding.span_copy import SpanRules
from recallm_jax.models.presets import PRESETS
from recallm_jax.models.transformer import random_transformer
from recallm_jax.planning.hlo import called, computations

HOST = ("infeed", "outfeed", "send", "recv")
# The name of the host's memory in layouts.
HOST_MEMORY = "S(5)"
LOOP = re.compile(r"(?:body|condition)=%?([\w.-]+)")
OPERATION = re.compile(r"^\s*(?:ROOT )?%?\S+ = (.*?) ([a-z][a-z-]*)\(")
SHAPE = re.compile(r"[a-z]+\d*\[([\d,]*)\]")
SAMPLING = Sampling(temperature=1.0)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a program: a preset, and the numbers of prompts, continuations and tokens."""

    preset: str
    num_prompts: int
    group_size: int
    prompt: int
    new_tokens: int
    constrained: bool = True

    def limits(self) -> Limits:
        """Return the limits of a response."""
        rows = PRESETS[self.preset].vocab_rows
        rules = SpanRules(rows - 2, rows - 1, rows, barriers=(0,), constrained=self.constrained)
        return Limits(rules, self.new_tokens, stop_tokens=(0,))

    def arguments(self, sharding: NamedSharding | None = None):
        """Return the shapes of the model, the prompts and the keys."""

        def shaped(shape, dtype):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        config = dataclasses.replace(PRESETS[self.preset], dtype="bfloat16")
        model = jax.eval_shape(functools.partial(random_transformer, config), jax.random.key(0))
        model = jax.tree.map(lambda x: shaped(x.shape, jnp.bfloat16), model)
        flags = shaped((self.num_prompts, self.prompt), bool)
        prompts = Prompts(
            tokens=shaped((self.num_prompts, self.prompt), jnp.int32),
            lengths=shaped((self.num_prompts,), jnp.int32),
            copyable=flags,
            span_start=flags,
            span_end=flags,
        )
        keys = shaped((self.num_prompts, self.group_size), jax.random.key(0).dtype)
        return model, prompts, keys


def compiled_decode(topology: str, sizes: Sizes):
    """Compile `decode` for one device of a topology."""
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    sharding = NamedSharding(Mesh(np.asarray(devices[:1]), ("device",)), PartitionSpec())
    arguments = sizes.arguments(sharding)
    return decode_at_once.lower(*arguments, sampling=SAMPLING, limits=sizes.limits()).compile()


def carried_bytes(sizes: Sizes) -> int:
    """Return the bytes of the arrays that the decode loop carries, in tiles of 8 x 128 words.

    Temporary memory can't be less. Most of it is the caches of keys and values, whose heads of 64
    fill half a tile.
    """
    groups = jax.eval_shape(
        lambda model, prompts, keys: start(
            model, prompts, keys, SAMPLING, sizes.limits(), sizes.new_tokens
        ),
        *sizes.arguments(),
    )
    return sum(tiled_bytes(x.shape, x.dtype) for x in jax.tree.leaves(groups))


def tiled_bytes(shape: tuple[int, ...], dtype) -> int:
    """Return the bytes of an array whose last two axes are rounded up to tiles."""
    size = 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
    *outer, rows, columns = (1, 1, *shape)
    tile_rows = 8 * max(1, 4 // size)
    return math.prod(outer) * -(-rows // tile_rows) * tile_rows * -(-columns // 128) * 128 * size


def loop_operations(hlo: str) -> list[tuple[str, str]]:
    """Return (operation, result type) of all operations in a step of the decode loop.

    The decode loop is the largest while loop of the entry computation.
    """
    found, entry = computations(hlo)

    def beneath(root: str) -> list[str]:
        seen, waiting = {root}, [root]
        while waiting:
            for line in found[waiting.pop()]:
                new = {*called(line), *LOOP.findall(line)} & found.keys() - seen
                seen |= new
                waiting += new
        return [line for name in seen for line in found[name]]

    bodies = re.findall(r" while\(.* body=%?([\w.-]+)", "\n".join(found[entry]))
    lines = max((beneath(body) for body in bodies), key=len)
    matches = [OPERATION.match(line) for line in lines]
    return [(match[2], match[1]) for match in matches if match]


def num_elements(result: str) -> int:
    """Return the elements of the largest array of a result type."""
    sizes = [math.prod(map(int, filter(None, dims.split(",")))) for dims in SHAPE.findall(result)]
    return max(sizes, default=0)


def describe(compiled) -> dict:
    """Count the operations in a step of a compiled program, and read its memory in MB.

    Raises:
      SystemExit: jaxlib can't read the programs of this libtpu.
    """
    try:
        operations = loop_operations(compiled.as_text())
    except jax.errors.JaxRuntimeError as error:
        raise SystemExit(
            f"error: jaxlib {jax.__version__} can't read a program of libtpu "
            f"{metadata.version('libtpu')} ({str(error).splitlines()[0]}); pip "
            "install one of its age, such as libtpu==0.0.42.1"
        ) from None
    memory = compiled.memory_analysis()

    def largest(kind):
        return max((num_elements(result) for name, result in operations if name == kind), default=0)

    return {
        "operations": len(operations),
        "sorts": sum(name == "sort" for name, _ in operations),
        "host_transfers": sum(
            name.startswith(HOST) or HOST_MEMORY in result for name, result in operations
        ),
        "largest_gather": largest("gather"),
        "largest_scatter": largest("scatter"),
        "arguments_mb": memory.argument_size_in_bytes / 1e6,
        "temporary_mb": memory.temp_size_in_bytes / 1e6,
    }


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--topology", nargs="+", default=["v5e:2x2", "v5p:2x2x1"])
    parser.add_argument("--preset", default="smollm2-135m", choices=sorted(PRESETS))
    parser.add_argument("--prompt", type=int, default=8192, help="prompt tokens")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=256)
    arguments = parser.parse_args()
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    rows = []
    for topology in arguments.topology:
        for constrained in (True, False):
            sizes = Sizes(
                arguments.preset,
                arguments.prompts,
                arguments.group,
                arguments.prompt,
                arguments.new_tokens,
                constrained,
            )
            row = {
                "topology": topology,
                "constrained": constrained,
                **describe(compiled_decode(topology, sizes)),
                "carried_mb": carried_bytes(sizes) / 1e6,
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    given = {name: value for name, value in vars(arguments).items() if name != "out"}
    write_report(arguments.out, rows, libtpu=metadata.version("libtpu"), **given)


if __name__ == "__main__":
    main()
