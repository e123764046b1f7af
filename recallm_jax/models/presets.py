"""The sizes of the models, and the presets of the families that one decoder covers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """The stretching of rotary frequencies for long contexts; fields as in Hugging Face configs.

    Kind "linear" uses factor; kind "llama3" uses factor, low_freq_factor, high_freq_factor and
    original_max_positions; kind "yarn" uses all others.

    Attributes:
      attention_factor: the factor on cos and sin; None computes it from `factor` and the mscales.
      mscale, mscale_all_dim: DeepSeek's weights in the attention factor; only both have an effect.
      truncate: whether the bounds of YaRN's ramp are rounded to whole dimensions.
    """

    kind: str
    factor: float
    original_max_positions: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


# The matrices of a layer, which adapters can change.
MATRICES = ("query", "key", "value", "attention_output", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class Lora:
    """The adapters of a model whose other parameters are frozen (LoRA, arXiv 2106.09685).

    A matrix W [in, out] becomes W + (alpha / rank) A B, with A [in, rank] and B [rank, out]. The
    embeddings of some tokens are trained fully: each is the frozen row plus a difference.

    Attributes:
      rank: r, the columns of A.
      alpha: the scale of A B, times r.
      matrices: the names, of `MATRICES`, that have an A and a B in every layer.
      rows: the ids of the tokens whose rows are trained.
    """

    rank: int
    alpha: float
    matrices: tuple[str, ...]
    rows: tuple[int, ...]

    @property
    def scale(self) -> float:
        """The factor of A B."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and options of a decoder; static.

    Attributes:
      vocab_rows: V, the rows of the embedding, which may exceed the tokenizer's entries.
      width: D.
      num_layers: L.
      num_heads, num_kv_heads, head_dim: N, K, H.
      mlp_dim: the width of the gated MLP.
      tie_embeddings: whether the output matrix is the embedding.
      qkv_bias: whether there are Qwen2's biases.
      qk_norm: whether there are Qwen3's norms of queries and keys.
      lora: the adapters; None if all parameters are trained.
      dtype: the type of activations and matrix products; norms, softmax and logits are float32.
      remat: the part that the backward pass computes again: "none", "full" (each layer),
        "attention" (each layer except its attention), or "dots" (all except matrix products).
      unstack_decode: whether decoding keeps separate arrays for each layer instead of stacked ones.
        On CPU a scan copies every layer's parameters and cache out of the stack in each step, which
        takes more time than the products. It costs a second copy of the parameters while decoding,
        and compile time in proportion to depth.
    """

    family: str
    vocab_rows: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    max_positions: int
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_scaling: RopeScaling | None = None
    lora: Lora | None = None
    dtype: str = "float32"
    remat: str = "full"
    unstack_decode: bool = False


_LLAMA3_ROPE = RopeScaling(kind="llama3", factor=8.0, original_max_positions=8192)
QWEN2_5_YARN = RopeScaling(kind="yarn", factor=4.0, original_max_positions=32768)
# Scalings that a config can ask for if the checkpoint states none.
ROPE_SCALINGS = {"qwen2.5-yarn": QWEN2_5_YARN}


def _qwen2_5(width, num_layers, num_heads, num_kv_heads, mlp_dim, vocab_rows, tie) -> ModelConfig:
    return ModelConfig(
        family="qwen2",
        vocab_rows=vocab_rows,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=width // num_heads,
        mlp_dim=mlp_dim,
        max_positions=32768,
        rope_theta=1e6,
        norm_eps=1e-6,
        tie_embeddings=tie,
        qkv_bias=True,
    )


def _qwen3(width, num_layers, num_heads, mlp_dim, tie) -> ModelConfig:
    return dataclasses.replace(
        _qwen2_5(width, num_layers, num_heads, 8, mlp_dim, 151936, tie),
        family="qwen3",
        head_dim=128,
        max_positions=40960,
        qkv_bias=False,
        qk_norm=True,
    )


_LLAMA3_1_8B = ModelConfig(
    family="llama",
    vocab_rows=128256,
    width=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=14336,
    max_positions=131072,
    rope_theta=5e5,
    norm_eps=1e-5,
    tie_embeddings=False,
    rope_scaling=_LLAMA3_ROPE,
)
PRESETS = {
    "smollm2-135m": ModelConfig(
        family="llama",
        vocab_rows=49152,
        width=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        mlp_dim=1536,
        max_positions=8192,
        rope_theta=1e5,
        norm_eps=1e-5,
        tie_embeddings=True,
    ),
    "qwen2.5-0.5b": _qwen2_5(896, 24, 14, 2, 4864, 151936, True),
    "qwen2.5-1.5b": _qwen2_5(1536, 28, 12, 2, 8960, 151936, True),
    "qwen2.5-7b": _qwen2_5(3584, 28, 28, 4, 18944, 152064, False),
    "qwen3-0.6b": _qwen3(1024, 28, 16, 3072, True),
    "qwen3-8b": _qwen3(4096, 36, 32, 12288, False),
    "llama-3.2-1b": dataclasses.replace(
        _LLAMA3_1_8B,
        width=2048,
        num_layers=16,
        head_dim=64,
        mlp_dim=8192,
        tie_embeddings=True,
        rope_scaling=dataclasses.replace(_LLAMA3_ROPE, factor=32.0),
    ),
    "llama-3.1-8b": _LLAMA3_1_8B,
}
