"""All data sets by name, and a function to add one. All lists of data sets derive from this one."""

from tasks.datasets import (
    aggregation,
    citation_qa,
    icl,
    long_doc_qa,
    multi_hop_qa,
    multi_niah,
    own_questions,
    reasoning_retrieval,
    recall,
    reranking,
    short_context_math,
    single_hop_qa,
)
from tasks.datasets.dataset import Dataset
from tasks.errors import TaskInputError
from tasks.suites.registry import find_task

# arXiv 2604.09494, section 5 and appendix B: ten categories, seventeen data sets.
PAPERS = (
    recall.RETRIEVAL,
    multi_niah.MULTI_NIAH,
    reasoning_retrieval.MATH_RETRIEVAL,
    short_context_math.DAPO_MATH,
    short_context_math.MCQA_MATH,
    icl.BANKING77,
    icl.MASSIVE,
    long_doc_qa.QUALITY,
    aggregation.MAJORITY_VOTE,
    aggregation.TOP_N_VOTE,
    reranking.MSMARCO_V2,
    citation_qa.QAMPARI,
    multi_hop_qa.HOTPOTQA,
    multi_hop_qa.MUSIQUE,
    multi_hop_qa.TWO_WIKI,
    single_hop_qa.NQ,
    single_hop_qa.TRIVIAQA,
)
# The data sets of this project: the paper's, and a user's own rows.
DECLARED = (*PAPERS, own_questions.OWN_QUESTIONS)
# The data sets of this project and those that scripts have registered.
DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in DECLARED}


def register(dataset: Dataset) -> None:
    """Add or replace a data set, so that a config may give it a share.

    Raises:
      TaskInputError: a suite has a task of this name.
    """
    if find_task(dataset.name) is not None:
        raise TaskInputError(
            f"dataset {dataset.name!r} has the name of an evaluation suite's task; give it another"
        )
    DATASETS[dataset.name] = dataset


def find(name: str) -> Dataset:
    """Return the data set of this name.

    Raises:
      TaskInputError: there is no such data set.
    """
    if name not in DATASETS:
        raise TaskInputError(f"dataset {name!r} is unknown; use one of {', '.join(DATASETS)}")
    return DATASETS[name]
