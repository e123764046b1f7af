"""Write the results of TRL and RLax on random numbers, to compare our losses and advantages.

Neither is a dependency of the project or its tests; run this in an environment of its own:

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install --extra-index-url https://download.pytorch.org/whl/cpu \
        torch==2.13.0 trl==1.16.0 rlax==0.1.9
    /tmp/golden/bin/python tests/golden/make_rl_golden.py

Writes rl.json beside this file: the versions, the inputs, and for each case the loss and its
gradient by the log-probabilities, as the trainers' own `_compute_loss` gives them on a trainer that
is only made of the settings which it reads; and generalised advantages and clipped surrogates.
"""

import collections
import importlib.metadata
import json
import pathlib
import types

import jax.numpy as jnp
import numpy as np
import rlax
import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

HERE = pathlib.Path(__file__).resolve().parent
ROWS, LIMIT = 6, 5
LENGTHS = [5, 2, 4, 1, 5, 3]
CLIP_LOW, CLIP_HIGH, BETA, CAP = 0.1, 0.3, 0.4, 2.0
# TRL's names for our aggregations.
LOSS_TYPES = {"token": "bnpo", "sequence": "grpo", "constant": "dr_grpo"}
DISCOUNT, TRACE_DECAY = 0.9, 0.8


def inputs() -> dict[str, np.ndarray]:
    """Return log-probabilities [B, T] near each other, advantages [B], and the inputs of GAE."""
    rng = np.random.default_rng(0)
    new = rng.normal(-1.5, 0.5, (ROWS, LIMIT))
    near = {name: new + rng.normal(0, 0.3, new.shape) for name in ("old", "sampler", "reference")}
    return {
        "new": new,
        **near,
        "advantages": rng.normal(size=ROWS),
        "rewards": rng.normal(size=(ROWS, LIMIT)),
        "values": rng.normal(size=(ROWS, LIMIT)),
    }


def trainer(log_probs: torch.Tensor, **settings) -> types.SimpleNamespace:
    """Return the parts of a trainer that `_compute_loss` reads; its scores are `log_probs`."""
    return types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **options: (
            log_probs,
            torch.zeros_like(log_probs),
            None,
        ),
        model=types.SimpleNamespace(training=False),
        accelerator=types.SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        args=types.SimpleNamespace(use_bias_correction_kl=False, delta=None),
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        _entropy_bonus_enabled=False,
        epsilon_low=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        beta=BETA,
        max_completion_length=LIMIT,
        **settings,
    )


def loss_and_gradient(kind, given: dict[str, np.ndarray], more: dict, **settings) -> dict:
    """Return a trainer's loss and its gradient by the log-probabilities."""
    log_probs = torch.tensor(given["new"], requires_grad=True)
    ids = torch.zeros((ROWS, LIMIT), dtype=torch.long)
    mask = torch.arange(LIMIT)[None] < torch.tensor(LENGTHS)[:, None]
    batch = {
        "prompt_ids": ids,
        "prompt_mask": ids,
        "completion_ids": ids,
        "completion_mask": mask.double(),
        "advantages": torch.tensor(given["advantages"]),
        **more,
    }
    loss = kind._compute_loss(trainer(log_probs, **settings), None, batch)
    loss.backward()
    return {"loss": loss.item(), "gradient": log_probs.grad.tolist()}


def main() -> None:
    """Write rl.json."""
    given = inputs()
    tensors = {name: torch.tensor(x) for name, x in given.items()}
    of_tokens = {
        "old_per_token_logps": tensors["old"],
        "ref_per_token_logps": tensors["reference"],
        "importance_sampling_ratio": (tensors["old"] - tensors["sampler"]).exp().clamp(max=CAP),
    }
    losses = [
        {"ratio": ratio, "aggregation": mean}
        | loss_and_gradient(
            GRPOTrainer,
            given,
            of_tokens,
            loss_type=LOSS_TYPES[mean],
            importance_sampling_level=ratio,
            use_vllm=True,
            vllm_importance_sampling_correction=True,
        )
        for ratio in ("token", "sequence")
        for mean in LOSS_TYPES
    ]
    # RLOO at the first update of a batch, where the old policy is the new one.
    mask = np.arange(LIMIT)[None] < np.array(LENGTHS)[:, None]
    first = {"old_logps": torch.tensor((given["new"] * mask).sum(axis=1))}
    discounts = DISCOUNT * np.append(np.ones(LIMIT - 1), 0.0)
    advantages = [
        rlax.truncated_generalized_advantage_estimation(
            jnp.asarray(rewards),
            jnp.asarray(discounts),
            TRACE_DECAY,
            jnp.append(jnp.asarray(values), 9.0),
        ).tolist()
        for rewards, values in zip(given["rewards"], given["values"], strict=True)
    ]
    ratios = jnp.exp(jnp.asarray(given["new"] - given["old"]))
    surrogate = rlax.clipped_surrogate_pg_loss(
        ratios.reshape(-1), jnp.repeat(jnp.asarray(given["advantages"]), LIMIT), 0.2
    )
    packages = ("torch", "trl", "rlax", "numpy")
    golden = {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "inputs": {name: x.tolist() for name, x in given.items()} | {"lengths": LENGTHS},
        "settings": {
            "clip_low": CLIP_LOW,
            "clip_high": CLIP_HIGH,
            "kl_coefficient": BETA,
            "importance_cap": CAP,
            "discount": DISCOUNT,
            "trace_decay": TRACE_DECAY,
        },
        "trl_grpo": losses,
        "trl_rloo": loss_and_gradient(RLOOTrainer, given, first),
        "rlax_advantages": advantages,
        "rlax_surrogate_0.2": float(surrogate),
    }
    text = json.dumps(golden, indent=1)
    (HERE / "rl.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
