"""The plan job: bad input is one line, and the TPU compiler answers for real topologies."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from recallm_jax import plan
from recallm_jax.planning import chips

QWEN = "--config=configs/qwen2_5_7b.py"
TINY = "--config=configs/quickstart.py:tiny"
ALONG_TENSOR = ["--config.mesh.fsdp=1", "--config.mesh.sequence=1"]
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[tpu-plan]'"
)


def error_of(capsys, *arguments):
    assert plan.main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        (
            "v9z:2x2",
            "--topology=v9z:2x2 does not name a topology; give a chip and its shape, such as "
            "v5e:4x4",
        ),
        ("v5p", "--topology=v5p does not name a topology; give a chip and its shape"),
        ("v5e:4by4", "--topology=v5e:4by4 does not name a topology"),
        ("v5e:2x2x2", "v5e:2x2x2 does not exist: v5e comes as 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, "),
        ("v5e:2x8", "does not exist: v5e comes as"),
        ("v5e:08x8", "does not exist: v5e comes as"),
        ("v5p:4x4", "does not exist: v5p comes as 2x2x1, 2x2x2, 2x2x4, 2x4x4, and from 4x4x4"),
        ("v5p:2x2x3", "does not exist: v5p comes as"),
        ("v5p:8x4x4", "does not exist: v5p comes as"),
        ("v5p:16x16x28", "does not exist: v5p comes as"),
        ("v5p:4x4x32", "does not exist: v5p comes as"),
        ("v6e:16x32", "does not exist: v6e comes as 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16; "),
        ("v6e:0x4", "does not exist"),
    ],
)
def test_a_name_of_no_topology_is_refused(topology, message, capsys):
    assert message in error_of(capsys, TINY, f"--topology={topology}")


@pytest.mark.parametrize(
    "topology",
    ["v5e:1x1", "v5e:16x16", "v6e:2x4", "v5p:2x2x1", "v5p:4x20x20", "v5p:4x4x28", "v5p:16x16x24"],
)
def test_slices_that_google_rents_out_are_topologies(topology):
    assert chips.chip_of(topology) is chips.CHIPS[topology[:3]]


def test_a_topology_must_be_named(capsys):
    assert "--topology is missing; give one, such as" in error_of(capsys, TINY)


def test_a_config_refuses_topologies_that_it_has_no_sizes_for(capsys):
    found = error_of(capsys, QWEN, "--topology=v5e:2x2")
    assert "variant topology='v5e:2x2' has no sizes here; use any of v5p:4x4x4, " in found
    assert "or set --config.mesh.data, fsdp, sequence and tensor" in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--response_lengths=mean:9000"],
            "--response_lengths=mean:9000: a mean of 9000 tokens exceeds the limit of a response, "
            "config.decoding.max_new_tokens = 5120; give a lower mean, or raise the limit",
        ),
        (["--response_lengths=no/run"], "--response_lengths=no/run: there is no such file or fold"),
        (
            ["--response_lengths=mean:9", "--config.stages=('sft1',)"],
            "--response_lengths=mean:9: config.stages = ('sft1',) samples no responses; leave the "
            "flag out",
        ),
        (["--price_per_chip_hour=-4"], "--price_per_chip_hour=-4 is not a price; give a number of"),
    ],
)
def test_impossible_lengths_and_prices_are_refused(arguments, message, capsys):
    assert message in error_of(capsys, QWEN, "--topology=v5p:4x4x4", *arguments)


def test_without_the_compiler_one_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    assert "libtpu, the TPU's compiler, is not installed; run pip install -e" in error_of(
        capsys, TINY, "--topology=v5e:2x2"
    )


def test_a_topology_becomes_a_variant_of_the_config():
    for given, expected in (
        ("--config=a.py", "--config=a.py:topology=v5e:8x8"),
        ("--config=a.py:tiny", "--config=a.py:tiny,topology=v5e:8x8"),
        ("--config=a.py:x=1,topology=v5p:2x2x1", "--config=a.py:x=1,topology=v5e:8x8"),
    ):
        assert plan._with_topology([given, "--other=1"], "v5e:8x8") == [expected, "--other=1"]
    assert plan._with_topology(["--config", "a.py"], "v5e:8x8") == [
        "--config",
        "a.py:topology=v5e:8x8",
    ]


def run_plan(*arguments, **changes):
    """Run the job in a process of its own, in which arrays may be abstract."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **changes}
    command = [sys.executable, "-m", "recallm_jax.plan", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [QWEN, "--topology=v5e:2x2", "--config.mesh.fsdp=16"],
            "needs 64 chips, but v5e:2x2 has 4; lower an axis",
        ),
        (
            [QWEN, "--topology=v5e:2x4", *ALONG_TENSOR, "--config.mesh.tensor=8"],
            "num_heads = 28 cannot be split into 8 parts over mesh axes ('tensor',)",
        ),
        (
            [QWEN, "--topology=v5e:2x2", *ALONG_TENSOR, "--config.mesh.tensor=3"],
            "does not fit the 3 chosen of 4 TPU devices; use all devices of each slice",
        ),
    ],
)
def test_meshes_that_a_topology_cannot_hold_are_refused(arguments, message):
    done = run_plan(*arguments)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert message in line


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "slices", "mesh"),
    [
        ("v5e:2x2", 1, ["fsdp=2", "sequence=2"]),
        ("v5p:2x2x1", 1, ["data=2", "tensor=2"]),
        ("v5e:2x2", 2, ["data=2", "sequence=2", "tensor=2"]),
    ],
)
def test_all_programs_of_a_tiny_run_compile(topology, slices, mesh, tmp_path):
    sizes = ["grpo.group_size=4", "grpo.rollout_parts=1", "evaluation.batch_size=2"]
    path = tmp_path / "plan.json"
    done = run_plan(
        TINY,
        f"--topology={topology}",
        f"--slices={slices}",
        f"--json={path}",
        *(f"--config.mesh.{axis}" for axis in mesh),
        *(f"--config.{size}" for size in sizes),
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "programs"),
    )
    assert done.returncode == 0, done.stderr
    where = topology if slices == 1 else f"{slices} slices of {topology}"
    assert f"fits: all 8 programs on {where}" in done.stdout
    # JAX can't load kept programs of chips that are not here.
    assert not list(tmp_path.glob("programs/*"))
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["complete"] and report["fits"]
    rows = {row["program"]: row for row in report["programs"]}
    assert list(rows) == [
        *("sft1.update", "sft2.update", "grpo.reshard", "grpo.rollout", "grpo.reference"),
        *("grpo.update", "evaluation.reshard", "evaluation.256"),
    ]
    for name, row in rows.items():
        memory = row["memory"]
        assert 0 < memory["total"] < memory["hbm"], name
    # Adam's two moments are as large as the parameters.
    held = rows["grpo.update"]["memory"]["arguments"]
    assert held["optimiser"] == pytest.approx(2 * held["parameters"], rel=0.01)
    # Two steps of each stage; every program's traffic is counted.
    least = report["least_time"]
    assert [*least["full_lengths"]["stages"]] == ["sft1", "sft2", "grpo"]
    of_programs = [max(row["at_least_seconds_estimate"].values()) for row in rows.values()]
    assert least["full_lengths"]["run"] == pytest.approx(2 * sum(of_programs[:6]))
    assert len(least["notes"]) == 1
    # Gradients are summed over the parts of the mesh that split prompts.
    sent = rows["grpo.update"]["sent"]["once"]
    assert sum(sent.values()) > 0
    # The gradients are sent between slices.
    assert ("between slices" in sent) == (slices > 1)
    assert slices == 1 or sent["between slices"] >= held["parameters"]


@needs_compiler
@pytest.mark.slow
def test_the_least_time_of_the_papers_run_needs_no_compilation(tmp_path):
    path = tmp_path / "plan.json"
    done = run_plan(
        QWEN,
        "--topology=v5p:4x4x4",
        "--response_lengths=mean:1000",
        "--price_per_chip_hour=2",
        "--no_compile",
        f"--json={path}",
    )
    assert done.returncode == 0, done.stderr
    assert "| cost at 2 a chip-hour" in done.stdout
    least = json.loads(path.read_text(encoding="utf-8"))["least_time"]
    whole, expected = least["full_lengths"], least["expected_lengths"]
    # docs/plan.md has the bounds of the compiled programs at full lengths: 22, 8.8 and 35 s.
    assert whole["stages"]["grpo"]["step"] == pytest.approx(22 + 8.8 + 35, abs=1)
    assert expected["stages"]["grpo"]["step"] < whole["stages"]["grpo"]["step"] / 2
    assert expected["cost"] == pytest.approx(2 * 64 * expected["run"] / 3600)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5p:4x4x4", "v6e:8x8", "v5e:8x8"])
@pytest.mark.parametrize("name", ["qwen2_5_7b", "llama3_1_8b"])
def test_the_policies_of_the_papers_sizes_fit_every_chip_beside_what_training_keeps(
    name, topology, tmp_path
):
    """The programs of training that compile in seconds; docs/plan.md has the rest."""
    path = tmp_path / "plan.json"
    config = f"--config=configs/{name}.py"
    done = run_plan(config, f"--topology={topology}", "--only=grpo.reshard", f"--json={path}")
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["complete"] and report["fits"]
    (row,) = report["programs"]
    # The policy, Adam's moments and the reference in float32; another policy for rollouts.
    held, kept, chips = row["memory"]["arguments"], row["memory"]["resident"], 64
    assert held["parameters"] == pytest.approx(4 * report["parameters"] / chips, rel=0.01)
    assert kept["optimiser"] == pytest.approx(2 * held["parameters"], rel=0.01)
    assert kept["other policies"] == pytest.approx(2 * held["parameters"], rel=0.01)
    assert row["sent"]["total"]["all-gather"] > 0


@needs_compiler
@pytest.mark.slow
def test_a_program_that_does_not_fit_is_reported_with_a_remedy():
    done = run_plan(
        TINY,
        "--topology=v5e:2x2",
        "--only=grpo.update",
        "--config.model.remat=none",
        "--config.data.target_length=16384",
        "--config.decoding.max_new_tokens=16000",
        "--config.grpo.group_size=64",
        "--config.grpo.micro_batch=2",
    )
    assert done.returncode == 1, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("grpo.update does not fit: needs ")
    assert "grpo.micro_batch = 1 (is 2)" in last
    assert 'model.remat = "full" (is "none")' in last
