#!/bin/sh
# One seed of the comparison in README.md:
#   sh docs/results/length/run.sh SEED FOLDER [LENGTHS] [ARMS]
# An arm leaves a run of its name in FOLDER; grpo goes on from cold_start. Interrupted, the same
# command goes on.
set -eu
seed=$1 folder=$2 lengths=${3:-(512,1024,2048,4096,7936)}
arms=${4:-direct probe cold_start grpo lora}
shared="--config=configs/quickstart.py --config.data.mixture.own_questions=0 --config.seed=$seed
  --config.data.dir= --config.sft2.steps=20
  --config.evaluation.lengths=$lengths --config.evaluation.num_examples=16
  --config.evaluation.batch_size=8 --config.checkpoint.every_steps=50"
both="--config.evaluation.modes=('constrained-greedy','unconstrained-greedy')"

# The starting model, and the baseline: the same prompts, answered at once.
direct="$shared --workdir=$folder/direct --config.stages=('sft2',) --config.data.thinking=False
  --config.data.system_prompt=docs/results/length/system.txt --config.decoding.constrained=False
  --config.evaluation.policies=('start','cold_start')
  --config.evaluation.modes=('unconstrained-greedy',)"

# The cold start learns to recall without the mask, so that it can copy with and without it.
cold="$shared --config.stages=('sft1','sft2') --config.decoding.constrained=False
  --config.evaluation.policies=('cold_start',) $both"

for arm in $arms; do
  case $arm in
    direct) python -m recallm_jax.train $direct ;;
    probe) # Lost in thought, where there is something to lose.
      python -m recallm_jax.probe $direct --checkpoint --config.probe.target_length=1024 \
        --config.probe.num_examples=96 --config.probe.reasoning_tokens="(64,256,1024,2048)" ;;
    cold_start) python -m recallm_jax.train $cold --workdir="$folder/cold_start" ;;
    lora) # The same cold start with adapters.
      python -m recallm_jax.train $cold --workdir="$folder/lora" \
        --config.model.lora.rank=16 --config.sft2.learning_rate=2e-3 ;;
    grpo) # GRPO goes on from the cold start under the constraint.
      test -d "$folder/weights" ||
        python -m recallm_jax.convert $cold --workdir="$folder/cold_start" --out="$folder/weights"
      python -m recallm_jax.train $shared --workdir="$folder/grpo" --config.stages="('grpo',)" \
        --config.model.weights="$folder/weights" --config.grpo.steps=8 \
        --config.grpo.kl_coefficient=0.0 --config.optimizer.learning_rate=2e-5 \
        --config.evaluation.policies="('grpo',)" $both ;;
    *) echo "run.sh: arm '$arm' is unknown; use any of direct probe cold_start grpo lora" >&2
      exit 2 ;;
  esac
done
