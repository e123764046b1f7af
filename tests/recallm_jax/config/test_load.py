"""How a job parses its arguments and ends, and how it loads config files of users' own."""

import errno

import pytest
from ml_collections import ConfigDict

from decoding.errors import DecodingInputError
from recallm_jax.config.load import JobParser, check_config, load_config, parse_config
from recallm_jax.runtime.errors import UserError, run_job
from tasks.errors import TaskInputError

QUICKSTART = "--config=configs/quickstart.py"


def parser() -> JobParser:
    parser = JobParser("job", "A job.")
    parser.add_argument("--workdir", required=True)
    return parser


def test_a_job_gets_its_own_arguments_and_the_config():
    arguments, config = parse_config(parser(), ["--workdir=x", QUICKSTART, "--config.seed=5"])
    assert (arguments.workdir, config.seed) == ("x", 5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([QUICKSTART], "the following arguments are required: --workdir; see job --help"),
        (["--workdir=x"], "--config is missing"),
        (["--workdir=x", QUICKSTART, "--work=y"], "argument '--work=y' is unknown"),
    ],
)
def test_mistaken_arguments_are_explained(argv, message):
    with pytest.raises(UserError) as caught:
        parse_config(parser(), argv)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [UserError("bad\n  thing"), TaskInputError("bad thing"), DecodingInputError("bad thing")],
)
def test_an_error_of_the_user_is_one_line_and_code_2(error, capsys):
    def job(argv):
        raise error

    assert run_job(job, []) == 2
    assert capsys.readouterr().err == "error: bad thing\n"


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk quota is used up")],
)
def test_a_full_disk_is_one_line_and_code_2(number, reason, capsys):
    def job(argv):
        raise OSError(number, "as the system says", "runs/x/metrics.jsonl")

    assert run_job(job, []) == 2
    assert capsys.readouterr().err.startswith(f"error: {reason} while writing runs/x/metrics.jso")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("a file"), "not a directory"),
        (lambda path: path.symlink_to("nowhere"), "file exists"),
    ],
)
def test_a_path_that_cannot_be_a_folder_is_one_line_and_code_2(make, reason, tmp_path, capsys):
    path = tmp_path / "runs"
    make(path)
    assert run_job(lambda argv: (path / "x").mkdir(parents=True), []) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}") and f"can't be used ({reason})" in error


def test_a_missing_folder_is_one_line_and_code_2(tmp_path, capsys):
    path = tmp_path / "none" / "x.png"
    assert run_job(lambda argv: path.write_bytes(b""), []) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} can't be used (no such file or directory); give")


@pytest.mark.parametrize("error", [ValueError("a fault"), OSError(errno.EBADF, "no")])
def test_a_fault_keeps_its_traceback(error):
    def job(argv):
        raise error

    with pytest.raises(type(error)):
        run_job(job, [])


def test_a_job_that_succeeds_gives_code_0():
    seen = []
    assert run_job(seen.append, ["--x"]) == 0
    assert seen == [["--x"]]


def write(path, body: str) -> str:
    path.write_text(
        "from configs import common\n\n\ndef get_config(arg=''):\n"
        f"    config = common.base()\n    {body}\n    return config\n",
        encoding="utf-8",
    )
    return f"--config={path}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("def get_config(:\n", "invalid syntax"), ("import no_such_module\n", "No module named")],
)
def test_a_config_that_python_can_not_run_is_refused_in_one_line(text, reason, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    assert run_job(load_config, [f"--config={file}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --config={file}: {reason}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "config.grpo.step = 3",
            "config.grpo.step is not a field; did you mean config.grpo.steps?",
        ),
        ("del config.grpo.steps", "config.grpo.steps is missing"),
        ("config.grpo.steps = 'many'", "many"),
        ("config.seed = True", "config.seed = True has the wrong type; give int"),
        ("raise ValueError('the\\nreason')", "reason"),
        ("import nonsense", "nonsense"),
        ("return 3", "get_config must return a ConfigDict, not int"),
        ("(", "was never closed"),
        ("nonsense", "name 'nonsense' is not defined"),
        ("config.data.nonsense.x = 1", "nonsense"),
        ("config.model['x']['y'] = 1", "x"),
        ("raise AssertionError", "AssertionError"),
    ],
)
def test_a_broken_config_file_is_explained(tmp_path, body, message):
    with pytest.raises(UserError) as caught:
        load_config([write(tmp_path / "own.py", body)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_file_is_executed_once(tmp_path, capsys):
    argument = write(tmp_path / "own.py", "print('executed')")
    config = load_config([argument, "--config.seed=5", "--config.data.mixture.2wikimultihopqa=1"])
    assert (config.seed, config.data.mixture["2wikimultihopqa"]) == (5, 1.0)
    assert capsys.readouterr().out == "executed\n"


def test_a_config_made_by_hand_is_checked_too():
    with pytest.raises(UserError, match=r"config\.topology is missing; set it"):
        check_config(ConfigDict({"seed": 0}))
