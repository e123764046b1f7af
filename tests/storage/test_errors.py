"""An error that passes through `naming` keeps its kind and says its place."""

import pytest

from recallm_jax.runtime.errors import UserError
from storage.errors import InputError, naming
from tasks.errors import DemonstrationError


@pytest.mark.parametrize("kind", [InputError, UserError, DemonstrationError])
def test_an_error_keeps_its_kind_and_says_its_place(kind):
    with pytest.raises(InputError) as caught, naming("a.jsonl"), naming("line 3"):
        raise kind("the answer is empty; give one")
    assert type(caught.value) is kind
    assert str(caught.value) == "a.jsonl: line 3: the answer is empty; give one"


def test_an_error_of_the_program_stays_what_it_is():
    with pytest.raises(ValueError, match="x"), naming("a.jsonl"):
        raise ValueError("x")
