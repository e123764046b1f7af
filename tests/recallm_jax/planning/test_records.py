"""The recorded plans have the configs' meshes and programs, and docs/plan.md shows them."""

import json
import pathlib
import re

import pytest

from configs import llama3_1_8b, one_host, qwen2_5_7b
from recallm_jax.config.load import load_config
from recallm_jax.planning.chips import GIB, chip_of

DOCS = pathlib.Path(__file__).parents[3] / "docs"
# The topologies with a plan of each config, or of its models.
CONFIGS = {
    "qwen2_5_7b.py": tuple(qwen2_5_7b.TOPOLOGIES),
    "llama3_1_8b.py": tuple(llama3_1_8b.TOPOLOGIES),
    **{f"one_host.py:model={model}": ("v5e:2x4",) for model in one_host.TOPOLOGIES},
}
PAIRS = [(name, topology) for name, topologies in CONFIGS.items() for topology in topologies]


def record(name, topology):
    file = name.replace(".py", "").replace(":model=", ".")
    path = DOCS / "results" / "plan" / f"{file}.{topology.replace(':', '_')}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def config_for(name, topology):
    between = "," if ":" in name else ":"
    return load_config([f"--config=configs/{name}{between}topology={topology}"])


@pytest.mark.parametrize(("name", "topology"), PAIRS)
def test_every_topology_of_a_config_has_a_plan_that_fits(name, topology):
    plan = record(name, topology)
    assert plan["complete"] and plan["fits"]
    config = config_for(name, topology)
    assert plan["mesh"] == config.mesh.to_dict()
    names = [row["program"] for row in plan["programs"]]
    assert names == [
        *("sft1.update", "sft1.apply", "sft2.update", "sft2.apply", "grpo.reshard"),
        *("grpo.rollout", "grpo.reference", "grpo.update", "grpo.apply"),
        *("evaluation.reshard", f"evaluation.{max(config.evaluation.lengths)}"),
    ]
    limit = chip_of(topology).hbm
    for row in plan["programs"]:
        memory = row["memory"]
        parts = (memory["arguments"], memory["resident"])
        counted = sum(sum(part.values()) for part in parts)
        others = ("padding_of_arguments", "outputs", "temporaries", "code")
        assert counted + sum(memory[name] for name in others) == memory["total"]
        assert memory["total"] < limit == memory["hbm"]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_of_the_docs_shows_the_records(name):
    text = (DOCS / "plan.md").read_text(encoding="utf-8")
    section = text.partition(f"### `configs/{name}`")[2].partition("\n### ")[0]
    columns = len(CONFIGS[name]) + 2
    header, *rows = (line for line in section.splitlines() if line.count("|") == columns)
    topologies = re.findall(r"`(v\w+:\w+)`", header)
    assert sorted(topologies) == sorted(CONFIGS[name])
    told = {}
    for row in rows:
        cells = [cell.strip(" `") for cell in row.strip("|").split("|")]
        told |= {(cells[0], t): cell for t, cell in zip(topologies, cells[1:], strict=True)}
    for topology in topologies:
        for row in record(name, topology)["programs"]:
            # The evaluation's copy of the policy is smaller than training's.
            if row["program"] != "evaluation.reshard":
                assert told[row["program"], topology] == f"{row['memory']['total'] / GIB:.1f}"
