"""The recorded plans have the configs' meshes and programs, and docs/plan.md shows them."""

import json
import pathlib
import re

import pytest

from configs import llama3_1_8b, qwen2_5_7b
from recallm_jax.config.load import load_config
from recallm_jax.planning.chips import GIB, chip_of

DOCS = pathlib.Path(__file__).parents[3] / "docs"
CONFIGS = {"qwen2_5_7b": qwen2_5_7b, "llama3_1_8b": llama3_1_8b}
PAIRS = [(name, topology) for name, module in CONFIGS.items() for topology in module.TOPOLOGIES]


def record(name, topology):
    path = DOCS / "results" / "plan" / f"{name}.{topology.replace(':', '_')}.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "topology"), PAIRS)
def test_every_topology_of_a_config_has_a_plan_that_fits(name, topology):
    plan = record(name, topology)
    assert plan["complete"] and plan["fits"]
    config = load_config([f"--config=configs/{name}.py:topology={topology}"])
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
        counted += memory["outputs"] + memory["temporaries"] + memory["code"]
        assert counted == pytest.approx(memory["total"], rel=1e-3)
        assert memory["total"] < limit == memory["hbm"]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_of_the_docs_shows_the_records(name):
    text = (DOCS / "plan.md").read_text(encoding="utf-8")
    section = text.partition(f"### `configs/{name}.py`")[2].partition("\n### ")[0]
    header, *rows = (line for line in section.splitlines() if line.count("|") == 5)
    topologies = re.findall(r"`(v\w+:\w+)`", header)
    assert sorted(topologies) == sorted(CONFIGS[name].TOPOLOGIES)
    told = {}
    for row in rows:
        cells = [cell.strip(" `") for cell in row.strip("|").split("|")]
        told |= {(cells[0], t): cell for t, cell in zip(topologies, cells[1:], strict=True)}
    for topology in topologies:
        for row in record(name, topology)["programs"]:
            # The evaluation's copy of the policy is smaller than training's.
            if row["program"] != "evaluation.reshard":
                assert told[row["program"], topology] == f"{row['memory']['total'] / GIB:.1f}"
