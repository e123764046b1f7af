"""Turn a run's folder into one self-contained HTML page.

    python -m recallm_jax.report --workdir=runs/quickstart

The page, `report.html` in that folder, needs no network: exact match by policy, mode and length,
training curves, and example responses with each recall span beside the place it was copied from.
"""

import sys
from collections.abc import Sequence

from recallm_jax.config.load import JobParser, path_argument
from recallm_jax.reporting.data import Run, load_run
from recallm_jax.reporting.page import render
from recallm_jax.reporting.progress import left_to_do
from recallm_jax.reporting.run_figure import write_run_figure
from recallm_jax.runtime.errors import run_job
from storage.files import Path, as_path, is_remote, write_whole

FILE = "report.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return its exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.report", __doc__)
    parser.add_argument("--workdir", type=path_argument, required=True, help="folder of the run")
    parser.add_argument(
        "--figure", type=path_argument, help="also draw a picture, such as docs/run.png"
    )
    arguments = parser.parse_args(argv)
    run = load_run(arguments.workdir)
    path = write_report(run, arguments.workdir)
    if arguments.figure is not None:
        write_run_figure(run, arguments.figure)
    if left := left_to_do(run):
        print(f"not finished: {'; '.join(left)}")
    print(f"report: {path if is_remote(path) else path.resolve().as_uri()}")


def build_report(workdir: str | Path) -> Path:
    """Write a run's page; return its path.

    Raises:
      UserError: there is nothing to report on, or a file is damaged.
    """
    return write_report(load_run(workdir), workdir)


def write_report(run: Run, workdir: str | Path) -> Path:
    """Write the page of a run that is read; return its path."""
    page, path = render(run), as_path(workdir) / FILE
    write_whole(path, page)
    return path


if __name__ == "__main__":
    sys.exit(main())
