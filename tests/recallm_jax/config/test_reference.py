"""The list of the config's fields: on its page, and in the jobs' help."""

import pathlib

import pytest

from configs.common import base
from recallm_jax.config.fields import FIELDS
from recallm_jax.config.load import JobParser, flatten, parse_config
from recallm_jax.config.reference import columns, page, values


def test_the_page_is_the_output_of_its_generator():
    committed = pathlib.Path("docs/config.md").read_text(encoding="utf-8")
    assert committed == page(flatten(base())), "run `make docs`"


@pytest.mark.parametrize("text", [page(flatten(base())), columns()], ids=["page", "columns"])
def test_every_field_is_listed(text):
    named = {word.strip("`") for word in text.split()}
    assert named >= FIELDS.keys()


def test_every_field_has_a_sentence():
    for name, field in FIELDS.items():
        assert field.about[0].isupper() or field.about[0] in '("', name
        assert field.about.endswith(".") and "|" not in field.about, name


def test_help_lists_the_fields_beside_the_jobs_own_options(capsys):
    parser = JobParser("job", "A job.")
    parser.add_argument("--workdir", help="folder of the run")
    with pytest.raises(SystemExit):
        parse_config(parser, ["--help"])
    shown = capsys.readouterr().out
    assert shown.index("folder of the run") < shown.index(columns())


def test_columns_fit_a_terminal():
    assert max(map(len, columns().splitlines())) <= 100


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("grpo.steps", "int, at least 1"),
        ("decoding.constrained", "bool"),
        ("data.dir", "str"),
        ("optimizer.b1", "float, at least 0 and less than 1"),
        ("grpo.kl_in", "str: 'loss', 'reward'"),
        ("evaluation.suites", "tuple of str"),
        ("evaluation.lengths", "tuple of int, not empty, each at least 128"),
    ],
)
def test_the_values_of_a_field_are_described_in_words(name, text):
    assert values(name) == text
