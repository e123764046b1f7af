"""A trained run that the tests of several jobs share."""

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """The folder of a tiny run, trained once for all processes of a test run; not to be changed."""
    from tests.oracles import tiny_run

    folder = tmp_path_factory.getbasetemp()
    # A worker's folder is inside that of the test run.
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    return tiny_run.made_once(shared / "trained_run")


@pytest.fixture
def copied_run(trained_run, tmp_path):
    """A copy of the trained run, to be changed."""
    return shutil.copytree(trained_run, tmp_path / "copied_run")


@pytest.fixture(scope="session")
def tokenizer():
    from recallm_jax.policy.tiny import tiny_tokenizer

    return tiny_tokenizer()
