"""The small files of all data sets, which their tests share."""

import pytest

from tests.oracles.all_files import write_all


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> str:
    """A folder with the files of every data set that is not synthetic; not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    write_all(folder)
    return str(folder)
