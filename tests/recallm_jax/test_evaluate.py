"""The evaluate job's own arguments."""

import pytest

from recallm_jax import evaluate

CONFIG = "--config=configs/quickstart.py:tiny"


@pytest.mark.parametrize("label", ["..", ".", "a/b", "a/"])
def test_a_label_that_leaves_the_folder_of_evaluations_is_refused(label, tmp_path, capsys):
    assert evaluate.main([CONFIG, f"--workdir={tmp_path}", f"--label={label}"]) == 2
    error = capsys.readouterr().err
    assert f"error: --label={label} must be the name of a folder, without a path" in error
