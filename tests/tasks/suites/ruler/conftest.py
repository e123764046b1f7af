"""A folder with the files that RULER's tasks read."""

import json

import pytest

from tests.oracles.ruler_files import ESSAYS, hotpot_file, squad_file


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "haystack_essays.txt").write_text(ESSAYS)
    (folder / "dev-v2.0.json").write_text(json.dumps(squad_file()))
    (folder / "hotpot_dev_distractor_v1.json").write_text(json.dumps(hotpot_file()))
    return str(folder)
