"""The line on the speed of an evaluation."""

from recallm_jax.evaluation.sheet import describe_speed


def test_the_speed_is_that_of_all_prompts_and_tokens():
    line = "24 prompts in 12.5 s: 1.92 prompts and 2,000 tokens a second"
    assert describe_speed(24, 25_000, 12.5) == line
