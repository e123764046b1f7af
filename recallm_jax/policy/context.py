"""The context of a job: its policy, tokenizer, mesh and console."""

import contextlib
import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Int

from recallm_jax.models.transformer import Transformer
from recallm_jax.policy import partitioning
from recallm_jax.runtime import processes
from recallm_jax.runtime.console import Console
from recallm_jax.weights.hugging_face import TokenizerFiles
from storage.files import Path
from storage.sole_writer import sole_writer
from tasks.prompts.vocabulary import Tokenizer


@dataclasses.dataclass(frozen=True)
class Context:
    """The policy of a job, its tokenizer, the mesh that it lies on, and the job's console.

    Attributes:
      policy: the starting weights, placed on the mesh.
      files: what the tokenizer was made from, for exports.
      console: silent if this process does not lead.
    """

    policy: Transformer
    tokenizer: Tokenizer
    files: TokenizerFiles
    mesh: Mesh
    console: Console

    @property
    def leads(self) -> bool:
        """Whether this process writes the files, where several train one policy."""
        return processes.leads(self.mesh)

    def writing(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        """Return a block in which no other job writes a folder; see `storage/sole_writer.py`."""
        if not self.leads:
            return contextlib.nullcontext()
        return sole_writer(folder, say=self.console.say)

    def place(self, batch: Any) -> Any:
        """Put arrays that have a leading prompt axis on the mesh, split over it.

        A batch that can't be split evenly, such as one prompt alone, is held whole by every device.
        If several processes share the mesh, each gives the whole batch.
        """
        counts = {x.shape[0] for x in jax.tree.leaves(batch)}
        return processes.put_all(batch, self.batch_sharding(*counts))

    def batch_sharding(self, *counts: int) -> NamedSharding:
        """Return the sharding of batches with these numbers of prompts."""
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        whole = any(count % parts for count in counts)
        kind = partitioning.replicated if whole else partitioning.batch_sharding
        return kind(self.mesh)

    def own_rows(self, count: int) -> Int[np.ndarray, " rows"]:
        """Return the places in a batch of `count` prompts that this process makes and reads."""
        return processes.own_rows(count, self.batch_sharding(count))

    def place_rows(self, batch: Any, count: int) -> Any:
        """Put a batch of `count` prompts on the mesh; each process gives its own prompts."""
        return processes.put_rows(batch, count, self.batch_sharding(count))

    def fetch_rows(self, batch: Any) -> Any:
        """Return this process's prompts of placed arrays, on the host."""
        (count,) = {x.shape[0] for x in jax.tree.leaves(batch)}
        return processes.fetch_rows(batch, self.batch_sharding(count))

    def gather_rows(self, batch: np.ndarray, count: int) -> np.ndarray:
        """Gather a whole batch of `count` prompts; each process gives its own prompts.

        All processes get the same numbers, even for prompts that several of them hold.
        """
        return processes.gather_rows(batch, count, self.batch_sharding(count))
