"""Names of the registered tasks; no TensorFlow.

`recallm_<dataset>_train` and `recallm_<dataset>_val_<length>`, with lengths such as `512` or `4k`;
the mixture is `recallm_train`.
"""

MIXTURE = "recallm_train"

# arXiv 2604.09494, section 5 and appendix B: ten categories, seventeen data sets.
CATEGORIES = {
    "retrieval": "recall",
    "multi_niah": "recall",
    "math_retrieval": "reasoning_retrieval",
    "dapo_math": "short_context_math",
    "mcqa_math": "short_context_math",
    "banking77": "icl",
    "massive": "icl",
    "quality": "long_doc_qa",
    "majority_vote": "aggregation",
    "top_n_vote": "aggregation",
    "msmarco_v2": "reranking",
    "qampari": "citation_qa",
    "hotpotqa": "multi_hop_qa",
    "musique": "multi_hop_qa",
    "2wikimultihopqa": "multi_hop_qa",
    "nq": "single_hop_qa",
    "triviaqa": "single_hop_qa",
    # Not the paper's: a user's own rows.
    "own_questions": "own",
}
DATASETS = tuple(CATEGORIES)
# Categories whose prompts have nothing to recall.
WITHOUT_CONTEXT = ("short_context_math",)


def length_name(length: int) -> str:
    """Return `4k` for 4096 tokens, `512` for 512."""
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def train_task(dataset: str) -> str:
    """Return the name of a training task."""
    return f"recallm_{dataset}_train"


def validation_task(dataset: str, length: int) -> str:
    """Return the name of a validation task."""
    return f"recallm_{dataset}_val_{length_name(length)}"
