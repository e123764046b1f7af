"""Check the config of a job on this machine, before anything is created for it.

The exit code is 2, with one line on stderr, if the job would refuse its config.

python launch/check_config.py CHIPS COMMAND ARGUMENT...     CHIPS is 0 where it is not known
"""

import math
import re
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from recallm_jax.config.load import check_evaluation_mesh, check_training_mesh, load_config
from recallm_jax.runtime.errors import UserError, run_job

# The jobs that compute on the config's mesh.
DEVICES = ("train", "evaluate", "probe", "generate")


def main() -> int:
    """Return the exit code."""
    return run_job(_run, sys.argv[1:])


def _run(argv: Sequence[str]) -> None:
    chips, job, *arguments = argv
    config = load_config(list(_of_config(arguments)))
    # Saved rows are scored, and joined, without devices.
    if job not in DEVICES or {"--rescore", "--merge"} & set(arguments):
        return
    if job == "train":
        check_training_mesh(config)
    if job in ("train", "evaluate"):
        check_evaluation_mesh(config)
    if job == "probe":
        check_evaluation_mesh(config, "probe")
    _check_chips(config, int(chips))


def _of_config(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that make the config, each with its value."""
    found: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if re.match(r"--?(config(=|\.|$)|noconfig\.)", argument):
            found.append(argument)
            if "=" not in argument and waiting and not waiting[0].startswith("--"):
                found.append(waiting.pop(0))
    return found


def _check_chips(config: ConfigDict, chips: int) -> None:
    sizes = {name: size for name, size in config.mesh.items() if size > 1}
    wanted = math.prod(sizes.values())
    if chips and wanted > chips:
        shown = " x ".join(f"{name} = {size}" for name, size in sizes.items())
        raise UserError(
            f"config.mesh has {shown}: {wanted} chips, and this accelerator type has {chips}; make "
            "the mesh smaller, or take a larger type"
        )


if __name__ == "__main__":
    sys.exit(main())
