"""Every config loads, in every variant, and every mistake in an override is one clear line."""

import pathlib

import pytest

from configs import common
from recallm_jax.config.load import check_evaluation_mesh, check_training_mesh, flatten, load_config
from recallm_jax.planning.sizes import preset_sizes
from recallm_jax.policy.setup import check_lengths
from recallm_jax.runtime.errors import UserError
from storage.errors import InputError

CONFIGS = sorted(
    path.as_posix()
    for path in pathlib.Path("configs").glob("*.py")
    if path.name not in ("__init__.py", "common.py")
)
QUICKSTART = "--config=configs/quickstart.py:short"


@pytest.mark.parametrize("variant", ["", ":tiny"])
@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_passes_its_own_checks(path, variant):
    config = load_config([f"--config={path}{variant}"])
    assert config.is_locked
    check_training_mesh(config)
    check_evaluation_mesh(config)


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_says_its_result_hardware_and_command(path):
    text = pathlib.Path(path).read_text(encoding="utf-8")
    for part in ("Result: ", "Hardware: ", f"--config={path} "):
        assert part in text


# The configs that users run first, with the context of their model.
VARIANTS = [
    *CONFIGS,
    *(f"configs/mixture.py:of={of}" for of in ("all", "aggregation", "long_doc_qa", "own")),
    *(f"configs/mixture.py:algorithm={name}" for name in ("dapo", "ppo")),
    "configs/mixture.py:length=4096",
    *(f"configs/llama3_1_8b.py:experiment={name}" for name in common.EXPERIMENTS),
]


@pytest.mark.parametrize("path", VARIANTS)
def test_every_length_fits_the_models_context(path):
    config = load_config([f"--config={path}"])
    check_lengths(config, preset_sizes(config))


@pytest.mark.parametrize("path", CONFIGS)
def test_tiny_is_small(path):
    config = load_config([f"--config={path}:tiny"])
    assert config.model.weights == "random:tiny"
    assert config.grpo.steps * config.grpo.prompts_per_step * config.grpo.group_size <= 16


def test_overrides_reach_the_fields_and_leave_the_others():
    plain = flatten(load_config([QUICKSTART]))
    changed = flatten(
        load_config(
            [
                QUICKSTART,
                "--config.optimizer.learning_rate=1e-7",
                "--config.seed",
                "7",
                "--config.stages=sft1",
                "--config.stages=sft2,grpo",
            ]
        )
    )
    assert changed == plain | {
        "optimizer.learning_rate": 1e-7,
        "seed": 7,
        "stages": ("sft2", "grpo"),
    }


def test_every_share_can_be_overridden_whatever_the_name_of_the_data_set():
    for dataset in common.DATASETS:
        config = load_config([QUICKSTART, f"--config.data.mixture.{dataset}=2"])
        assert config.data.mixture[dataset] == 2.0 and config.is_locked


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("stages=sft1,grpo", "stages", ("sft1", "grpo")),
        ("stages=('sft1', 'grpo')", "stages", ("sft1", "grpo")),
        ('stages=["grpo"]', "stages", ("grpo",)),
        ("stages=('grpo',)", "stages", ("grpo",)),
        ("stages=grpo", "stages", ("grpo",)),
        ("evaluation.lengths=512,1_024", "evaluation.lengths", (512, 1024)),
        ("evaluation.lengths=(512, 1024,)", "evaluation.lengths", (512, 1024)),
        ("evaluation.suites=ruler_vt,ruler_fwe", "evaluation.suites", ("ruler_vt", "ruler_fwe")),
        ("evaluation.suites=", "evaluation.suites", ()),
        ("evaluation.suites=()", "evaluation.suites", ()),
        ("grpo.steps=1e3", "grpo.steps", 1000),
        ("optimizer.learning_rate=1e-5", "optimizer.learning_rate", 1e-5),
        ("optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("data.dir=None", "data.dir", ""),
        ("decoding.constrained=False", "decoding.constrained", False),
        ("decoding.constrained=no", "decoding.constrained", False),
        ("decoding.constrained=0", "decoding.constrained", False),
        ("model.unstack_decode=True", "model.unstack_decode", True),
        ("model.unstack_decode", "model.unstack_decode", True),
    ],
)
def test_what_people_type_is_taken(typed, name, value):
    found = flatten(load_config([QUICKSTART, f"--config.{typed}"]))[name]
    assert found == value and type(found) is type(value)


def test_a_bool_is_a_flag_alone_its_negation_or_has_a_value():
    constrained = "decoding.constrained"
    for arguments, value in (
        (["--noconfig.decoding.constrained"], False),
        (["--config.decoding.constrained", "--config.seed=1"], True),
        (["--config.decoding.constrained", "false", "--config.seed=1"], False),
        (["--noconfig.decoding.constrained", "--config.decoding.constrained"], True),
    ):
        assert flatten(load_config([QUICKSTART, *arguments]))[constrained] is value


def test_an_override_may_come_before_the_config():
    assert load_config(["--config.seed=3", QUICKSTART]).seed == 3


MISTAKES = {
    "--config.optimizer.learning_rte=1": "optimizer.learning_rte is not a field; did you mean "
    "config.optimizer.learning_rate?",
    "--config.learning_rate=1": "did you mean config.sft1.learning_rate or config.sft2."
    "learning_rate or config.optimizer.learning_rate?",
    "--config.grpo=1": "config.grpo is a section; set one of its fields: grpo.steps",
    "--config.xyz=1": "config.xyz is not a field; see recallm_jax/config/fields.py",
    "--config.data.source=generate": "'generate' is not a source; use 'seqio', 'generated', ",
    "--config.seed=abc": "config.seed = 'abc' has the wrong type; give int",
    "--config.data.mixture.2wikimultihopqa=all": "2wikimultihopqa = 'all' has the wrong type; give "
    "float",
    "--config.data.mixture.2wikimultihopqa=-1": "config.data.mixture.2wikimultihopqa = -1.0 is out",
    "--config.seed=1.5": "config.seed = '1.5' has the wrong type; give int",
    "--config.seed=-1": "config.seed = -1 is out of bounds; give at least 0",
    "--config.seed=9223372036854775808": "out of bounds; give at least 0 and at most 2147483647",
    "--config.data.value_length=1000000000": "out of bounds; give at least 4 and at most 256",
    "--config.optimizer.b1=1": "optimizer.b1 = 1.0 is out of bounds; give at least 0 and less than",
    "--config.optimizer.b2=1.5": "optimizer.b2 = 1.5 is out of bounds; give at least 0 and less",
    "--config.grpo.temperature=1e-40": "grpo.temperature = 1e-40 is out of bounds; give at least",
    "--config.evaluation.temperature=inf": "evaluation.temperature = inf is out of bounds; give",
    "--config.optimizer.learning_rate=0": "give more than 0",
    "--config.optimizer.learning_rate=nan": "is out of bounds",
    "--config.grpo.steps=0": "config.grpo.steps = 0 is out of bounds; give at least 1",
    "--config.model.dtype=fp16": "'fp16' is not one of 'float32', 'bfloat16'",
    "--config.model.weights=": "config.model.weights is empty; give a text",
    "--config.stages=sft3": "config.stages = 'sft3' is not one of 'sft1', 'sft2', 'grpo'",
    "--config.stages=('grpo','sft2')": "is out of order; the order is sft1, sft2, grpo",
    "--config.model.attention=flash": "'flash' is not one of 'auto', 'xla', 'splash'",
    "--config.stages=()": "config.stages = () must be a tuple with at least one str",
    "--config.evaluation.lengths=long": "evaluation.lengths = 'long' has the wrong type; give int",
    "--config.decoding.min_recall_length=200": "min_recall_length = 200 exceeds "
    "max_recall_length = 128; lower it",
    "--config.decoding.max_new_tokens=2": "no room for the shortest recall span; give at least 3",
    "--config.grpo.overlong_buffer=9999": "exceeds decoding.max_new_tokens",
    "--config.grpo.micro_batch=3": "is not a multiple of grpo.micro_batch = 3",
    "--config.data.terms=(300,300)": "data.terms = 300 is out of bounds; give at least 1",
    "--config.data.terms=(3,1)": "config.data.terms = (3, 1) must be a range such as (3, 5)",
    "--config.evaluation.suites=rular": "config.evaluation.suites: evaluation suite 'rular' is "
    "unknown; use any of ruler, ruler_chat, helmet, helmet_chat, own, or single",
    "--confg.seed=1": "argument '--confg.seed=1' is unknown",
    "--config.seed": "--config.seed has no value; write --config.seed=VALUE",
    "--noconfig.seed": "--noconfig.seed is unknown; write --config.seed=VALUE",
    "--config.grpo.lr=1": "config.grpo.lr is not a field; did you mean config.sft1.learning_rate "
    "or config.sft2.learning_rate or config.optimizer.learning_rate?",
    "--config.sft2.lr=1": "did you mean config.sft2.learning_rate?",
    "--config.mesh.fspd=2": "did you mean config.mesh.fsdp?",
    "--config.grpo.steps=99999999999999999999": "= 99999999999999999999 is out of bounds; "
    "give at most 2147483647",
    "--config.grpo.steps=2147483648": "out of bounds; give at most 2147483647",
    "--config.evaluation.lengths=512,long": "'512,long' has the wrong type; give int, or several "
    "with commas between them",
    "--config.decoding.constrained=maybe": "'maybe' has the wrong type; give true or false",
}


@pytest.mark.parametrize("argument", MISTAKES)
def test_a_mistaken_override_is_explained(argument):
    with pytest.raises(InputError) as caught:
        load_config([QUICKSTART, argument])
    assert MISTAKES[argument] in str(caught.value)
    assert "\n" not in str(caught.value)


EVALUATION = "config.evaluation.batch_size = 24 cannot be split over mesh.data * mesh.fsdp = 5 dev"


@pytest.mark.parametrize(
    ("changes", "training", "evaluation"),
    [
        (["mesh.data=2", "mesh.fsdp=2"], "", ""),
        (["mesh.data=5"], "micro_batch = 4 cannot be split over mesh.data * mesh.fsdp", EVALUATION),
        (["mesh.fsdp=8"], "config.sft1.micro_batch = 4 cannot be split over mesh.data", ""),
        (["mesh.data=2", "grpo.rollout_parts=4"], "4 in rollout_parts = 4 cannot be split", ""),
    ],
)
def test_each_job_refuses_the_meshes_that_it_cannot_use(changes, training, evaluation):
    sizes = ["sft1", "sft2", "grpo"]
    config = load_config(
        [
            QUICKSTART,
            "--config.evaluation.batch_size=24",
            *(f"--config.{stage}.micro_batch=4" for stage in sizes),
            *(f"--config.{change}" for change in changes),
        ]
    )
    for check, message in ((check_training_mesh, training), (check_evaluation_mesh, evaluation)):
        if not message:
            check(config)
            continue
        with pytest.raises(UserError) as caught:
            check(config)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_probe_refuses_a_mesh_that_its_batch_cannot_be_split_over():
    config = load_config(["--config=configs/eval_lost_in_thought.py", "--config.mesh.fsdp=16"])
    message = r"config\.probe\.batch_size = 8 cannot be split over .* = 16 devices"
    with pytest.raises(UserError, match=message):
        check_evaluation_mesh(config, "probe")


def test_all_shares_zero_are_refused():
    zeros = [f"--config.data.mixture.{name}=0" for name in ("retrieval", "math_retrieval")]
    with pytest.raises(UserError, match="mixture has only zeros"):
        load_config([QUICKSTART, *zeros])
    assert load_config([QUICKSTART, *zeros, "--config.evaluation.suites=ruler"]).is_locked


def test_suites_may_be_none_or_several():
    assert load_config([QUICKSTART]).evaluation.suites == ()
    several = "--config.evaluation.suites=('ruler_chat','ruler_vt')"
    assert load_config([QUICKSTART, several]).evaluation.suites == ("ruler_chat", "ruler_vt")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config=configs/nope.py", "--config=configs/nope.py: there is no such file"),
        ("--config=configs/quickstart.py:tny", "variant 'tny' is unknown; use any of tiny"),
        ("--config=configs/quickstart.py:tiny=1", "write tiny alone, or leave it out"),
        ("--config=configs/qwen2_5_7b.py:experiment=x", "experiment='x' is unknown; use any of"),
        ("--config=configs/smollm2_135m.py:length=long", "variant 'length=long': give int"),
        ("--config=configs/smollm2_135m.py:tiny,length=9", "'tiny' has a length of its own"),
    ],
)
def test_a_config_that_cannot_be_loaded_is_explained(argument, message):
    with pytest.raises(UserError) as caught:
        load_config([argument])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
