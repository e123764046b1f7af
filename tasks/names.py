"""The names of the registered tasks.

`recallm_<dataset>_train` and `recallm_<dataset>_val_<length>`, with lengths such as `512` or `4k`;
the mixture is `recallm_train`.
"""

MIXTURE = "recallm_train"


def length_name(length: int) -> str:
    """Return the name of a length: `4k` for 4096 tokens, `512` for 512."""
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def train_task(dataset: str) -> str:
    """Return the name of a training task."""
    return f"recallm_{dataset}_train"


def validation_task(dataset: str, length: int) -> str:
    """Return the name of a validation task."""
    return f"recallm_{dataset}_val_{length_name(length)}"
