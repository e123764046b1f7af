"""The console passes items on, and is silent where the process does not lead."""

from recallm_jax.runtime.console import Console


def test_progress_passes_the_items_on(capsys):
    assert list(Console().progress(iter("ab"), "title", total=5, done=3)) == ["a", "b"]
    assert "title" in capsys.readouterr().err


def test_a_silent_console_passes_the_items_on_and_shows_nothing(capsys):
    console = Console(silent=True)
    assert list(console.progress(iter("ab"), "title", total=5, done=3)) == ["a", "b"]
    console.say("a line")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    Console().say("a line")
    assert capsys.readouterr().out == "a line\n"
