"""Advice for a program that does not fit: config fields to change."""

from ml_collections import ConfigDict

from recallm_jax.models.presets import ModelConfig
from recallm_jax.planning.chips import GIB
from recallm_jax.planning.compiling import Planned
from recallm_jax.planning.programs import (
    BATCH,
    GRADIENT,
    OPTIMISER,
    OTHERS,
    PARAMETERS,
    ROLLOUT,
    Program,
)

# Parts below this share of a program's memory get no advice.
_LARGE = 0.15


def advice(planned: Planned, config: ConfigDict, sizes: ModelConfig) -> list[str]:
    """List changes of the config that make a program smaller, the most useful first."""
    memory, program = planned.memory, planned.program
    held: dict[str, int] = {}
    for parts in (memory.arguments, memory.resident):
        for name, size in parts.items():
            held[name] = held.get(name, 0) + size
    state = sum(held.get(name, 0) for name in (PARAMETERS, OPTIMISER, GRADIENT, OTHERS))
    caches = sum(planned.caches.values())
    work = memory.temporaries + memory.outputs + held.get(BATCH, 0) - caches
    shares = {
        "state": state,
        "rollout": held.get(ROLLOUT, 0),
        "caches": caches,
        "work": work,
    }
    rules = {
        "state": lambda: _state(config),
        "rollout": lambda: _rollout(config, sizes),
        "caches": lambda: _fewer_prompts(program.name, config) or _rollout(config, sizes),
        "work": lambda: _work(program, config, sizes),
    }
    found: list[str] = []
    for name in sorted(shares, key=lambda name: -shares[name]):
        if shares[name] >= _LARGE * memory.total or not found:
            found += rules[name]()
    return list(dict.fromkeys(found))


def _state(config: ConfigDict) -> list[str]:
    fsdp = config.mesh.fsdp
    found = [f"more chips: mesh.fsdp = {2 * fsdp} on a topology of twice the size"]
    if config.mesh.data > 1:
        data = config.mesh.data
        found.insert(0, f"mesh.fsdp = {fsdp * data} and mesh.data = 1: parameters split further")
    return found


def _rollout(config: ConfigDict, sizes: ModelConfig) -> list[str]:
    wider = 2 * config.mesh.tensor
    if sizes.num_heads % wider or config.mesh.fsdp % 2:
        return []
    return [f"mesh.tensor = {wider} and mesh.fsdp = {config.mesh.fsdp // 2}: decoding splits more"]


def _work(program: Program, config: ConfigDict, sizes: ModelConfig) -> list[str]:
    if program.kind == "decode":
        return _fewer_prompts(program.name, config) or _longer_sequence(config)
    if program.kind == "apply":
        return _state(config)
    if program.kind == "reshard":
        return _rollout(config, sizes)
    section = program.name.partition(".")[0]
    shards = config.mesh.data * config.mesh.fsdp
    micro_batch = config[section].micro_batch
    found = []
    if micro_batch > shards:
        found.append(f"{section}.micro_batch = {_smaller(micro_batch, shards)} (is {micro_batch})")
    if config.model.remat != "full" and program.kind == "update":
        found.append(f'model.remat = "full" (is "{config.model.remat}")')
    if not found:
        found += _longer_sequence(config)
    group_size = config[section].group_size if "group_size" in config[section] else 1
    chunk = config.model.logits_chunk
    logits = 4 * chunk * group_size * sizes.vocab_rows
    if logits > GIB * config.mesh.tensor * config.mesh.sequence:
        found.append(f"model.logits_chunk = {chunk // 2} (is {chunk}): fewer logits at a time")
    return found


def _fewer_prompts(name: str, config: ConfigDict) -> list[str]:
    shards = config.mesh.data * config.mesh.fsdp
    section = name.partition(".")[0]
    if section == "evaluation":
        size = config.evaluation.batch_size
        if size <= shards:
            return []
        return [f"evaluation.batch_size = {_smaller(size, shards)} (is {size})"]
    prompts, parts = config[section].prompts_per_step, config[section].rollout_parts
    if prompts // parts <= shards:
        return []
    more = prompts // _smaller(prompts // parts, shards)
    return [f"{section}.rollout_parts = {more} (is {parts}): fewer caches at a time"]


def _smaller(size: int, multiple: int) -> int:
    """Return the largest smaller divisor of a size that is a multiple of another number."""
    return max(n for n in range(multiple, size, multiple) if size % n == 0)


def _longer_sequence(config: ConfigDict) -> list[str]:
    fsdp, sequence = config.mesh.fsdp, config.mesh.sequence
    if fsdp % 2 == 0:
        return [
            f"mesh.sequence = {2 * sequence} and mesh.fsdp = {fsdp // 2} (micro-batches and "
            "batches half as large): fewer tokens of a prompt on each chip"
        ]
    return [f"more chips: mesh.sequence = {2 * sequence} on a topology of twice the size"]
