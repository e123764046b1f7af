"""The decode loop as the TPU compiler makes it: what one step holds, and the memory it takes.

    pip install -e '.[tpu-plan]' -c constraints.txt
    python -m benchmarks.tpu_program --topology=v5e:2x2 --preset=smollm2-135m --prompt=8192

No TPU is needed: libtpu compiles for a topology that is only described. The program is `decode`
itself, with the constraint and without, its weights and prompts given as shapes. Of everything that
runs once a step (the loop's body and all that it calls) the table counts sorts and transfers to the
host, and names the largest gather and scatter; memory is per device, as the compiler allots it.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.report import write_report
from decoding.decode_loop import Limits, decode
from decoding.prompts import Prompts
from decoding.sampling import Sampling
from decoding.span_copy import SpanRules
from recallm_jax.models.presets import PRESETS
from recallm_jax.models.transformer import random_transformer

HOST = ("infeed", "outfeed", "send", "recv")
# The host's memory, as a layout names it.
HOST_MEMORY = "S(5)"
CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)"
)
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
OPERATION = re.compile(r"^\s*(?:ROOT )?%?\S+ = (.*?) ([a-z][a-z-]*)\(")
SHAPE = re.compile(r"[a-z]+\d*\[([\d,]*)\]")


def compiled_decode(
    topology: str,
    preset: str,
    *,
    num_prompts: int,
    group_size: int,
    prompt: int,
    new_tokens: int,
    constrained: bool,
):
    """Compile `decode` for one device of a topology."""
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    sharding = NamedSharding(Mesh(np.asarray(devices[:1]), ("device",)), PartitionSpec())

    def shaped(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    config = dataclasses.replace(PRESETS[preset], dtype="bfloat16")
    model = jax.eval_shape(functools.partial(random_transformer, config), jax.random.key(0))
    model = jax.tree.map(lambda x: shaped(x.shape, jnp.bfloat16), model)
    flags = shaped((num_prompts, prompt), bool)
    prompts = Prompts(
        tokens=shaped((num_prompts, prompt), jnp.int32),
        lengths=shaped((num_prompts,), jnp.int32),
        copyable=flags,
        span_start=flags,
        span_end=flags,
    )
    rows = config.vocab_rows
    return decode.lower(
        model,
        prompts,
        shaped((num_prompts, group_size), jax.random.key(0).dtype),
        sampling=Sampling(temperature=1.0),
        limits=Limits(
            SpanRules(rows - 2, rows - 1, rows, barriers=(0,), constrained=constrained),
            new_tokens,
            stop_tokens=(0,),
        ),
    ).compile()


def loop_operations(hlo: str) -> list[tuple[str, str]]:
    """Return (operation, result type) of all that the decode loop runs in a step.

    The decode loop is the while loop of the entry computation with the most beneath it.
    """
    computations: dict[str, list[str]] = {}
    name = entry = ""
    for line in hlo.splitlines():
        header = re.match(r"^(ENTRY )?%?([\w.-]+) .*\{$", line)
        if header:
            name = header[2]
            computations[name] = []
            entry = name if header[1] else entry
        elif name and line.strip() != "}":
            computations[name].append(line)

    def called(line: str) -> list[str]:
        names = CALLED.findall(line)
        for group in BRANCHES.findall(line):
            names += [part.strip().lstrip("%") for part in group.split(",")]
        return [found for found in names if found in computations]

    def beneath(root: str) -> list[str]:
        seen, waiting = {root}, [root]
        while waiting:
            for line in computations[waiting.pop()]:
                new = [found for found in called(line) if found not in seen]
                seen.update(new)
                waiting += new
        return [line for found in seen for line in computations[found]]

    bodies = re.findall(r" while\(.* body=%?([\w.-]+)", "\n".join(computations[entry]))
    lines = max((beneath(body) for body in bodies), key=len)
    found = [OPERATION.match(line) for line in lines]
    return [(match[2], match[1]) for match in found if match]


def num_elements(result: str) -> int:
    """Return the elements of the largest array of a result type."""
    sizes = [math.prod(map(int, filter(None, dims.split(",")))) for dims in SHAPE.findall(result)]
    return max(sizes, default=0)


def describe(compiled) -> dict:
    """Return what a step of the compiled program holds, and its memory in MB."""
    operations = loop_operations(compiled.as_text())
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
    """Print the table; write it as JSON where `--out` says so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", nargs="+", default=["v5e:2x2", "v5p:2x2x1"])
    parser.add_argument("--preset", default="smollm2-135m", choices=sorted(PRESETS))
    parser.add_argument("--prompt", type=int, default=8192, help="prompt tokens")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    rows = []
    for topology in arguments.topology:
        for constrained in (True, False):
            compiled = compiled_decode(
                topology,
                arguments.preset,
                num_prompts=arguments.prompts,
                group_size=arguments.group,
                prompt=arguments.prompt,
                new_tokens=arguments.new_tokens,
                constrained=constrained,
            )
            row = {"topology": topology, "constrained": constrained, **describe(compiled)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    sizes = {name: value for name, value in vars(arguments).items() if name != "out"}
    write_report(arguments.out, rows, **sizes)


if __name__ == "__main__":
    main()
