"""The keys of config.json and generation_config.json: used, harmless, or refused by name.

A key that none of the tables has is refused too: nobody can tell whether the model computes the
same without it. null counts as absent.
"""

from collections.abc import Mapping
from typing import Any

from recallm_jax.runtime.errors import UserError

# The keys that `hugging_face_config`, `rope_settings` and the reader of end tokens use.
USED = frozenset(
    {
        "architectures",
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "original_max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    }
)
# Keys that do not change what the model computes, by the reason.
HARMLESS = {
    "`convert` writes it for the package recall_spans": ("recall_spans",),
    "it says where the file comes from": (
        "_name_or_path",
        "_commit_hash",
        "name_or_path",
        "transformers_version",
        "transformers.js_config",
        "unsloth_version",
        "unsloth_fixed",
        "is_llama_config",
        "_from_model_config",
        "tokenizer_class",
    ),
    "the project's own config decides the data type": ("torch_dtype", "dtype", "use_bfloat16"),
    "it acts on fresh weights, or as dropout, which training here does not have": (
        "initializer_range",
        "attention_dropout",
        "hidden_dropout",
        "resid_pdrop",
        "embd_pdrop",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
    ),
    "it chooses the implementation or the form of what transformers returns": (
        "use_cache",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "attn_implementation",
        "_flash_attn_2_enabled",
        "_experts_implementation",
        "experts_implementation",
        "pretraining_tp",
        "gradient_checkpointing",
        "keys_to_ignore_at_inference",
        "chunk_size_feed_forward",
        "output_attentions",
        "output_hidden_states",
        "tie_last_hidden_states",
        "return_dict",
        "use_return_dict",
        "torchscript",
    ),
    "transformers runs the folder's own code only if it is asked to": ("auto_map",),
    "it acts only together with use_sliding_window": ("sliding_window", "max_window_layers"),
    "it belongs to classification, or to models with an encoder": (
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "classifier_dropout",
        "is_decoder",
        "cross_attention_hidden_size",
        "tie_encoder_decoder",
        "decoder_start_token_id",
        "prefix",
        "sep_token_id",
        "unk_token_id",
        "tf_legacy_loss",
    ),
    "the project's own config decides the rules of recall spans": (
        "force_recall",
        "recall_tag_type",
        "recall_start_str",
        "recall_end_str",
        "recall_start_token_id",
        "recall_end_token_id",
        "record_recall_prob_after_generate",
        "max_recall_length",
        "use_fast_recall",
    ),
    "the project's own config decides how responses are sampled, and how long they are": (
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "top_h",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "repetition_penalty",
        "encoder_repetition_penalty",
        "diversity_penalty",
        "length_penalty",
        "max_length",
        "max_sequence_length",
        "model_max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "max_time",
        "stop_strings",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "num_return_sequences",
        "renormalize_logits",
        "remove_invalid_values",
    ),
    "it is about the speed or the output of transformers' own decoding": (
        "use_mtp",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "return_legacy_cache",
        "low_memory",
        "prefill_chunk_size",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "output_logits",
        "output_scores",
        "return_dict_in_generate",
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_ensemble_weight",
        "assistant_lookbehind",
        "target_lookbehind",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "speculation_type",
        "token_healing",
    ),
}
# Options that the decoder lacks: the values that turn each off, and what another value changes.
OFF: dict[str, tuple[tuple[Any, ...], str]] = {
    "hidden_act": (("silu", "swish"), "the activation of the MLP"),
    "attention_bias": ((False,), "biases on the four projections of attention"),
    "mlp_bias": ((False,), "biases in the MLP"),
    "bias": ((False,), "biases in the projections"),
    "use_sliding_window": ((False,), "attention to a window of the text only"),
    "layer_types": ((), "the kind of attention, layer by layer"),
    "rope_interleaved": ((False,), "the pairs of dimensions that are rotated"),
    "partial_rotary_factor": ((1,), "the share of each head that is rotated"),
    "use_mrope": ((False,), "the positions of images"),
    "dual_chunk_attention_config": ((), "attention over more than the trained length"),
    "is_encoder_decoder": ((False,), "an encoder"),
    "add_cross_attention": ((False,), "attention to an encoder"),
    "pruned_heads": (({},), "the heads that are left out"),
    "per_layer_config": (({},), "the sizes of single layers"),
    "quantization_config": (({},), "the form of the weights"),
    "compression_config": (({},), "the form of the weights"),
    "quantization": (({},), "the form of the weights"),
    "transformers_weights": ((), "the file that the weights are read from"),
}
# The same for keys that change the probabilities of tokens at each step of a generation.
OFF_IN_GENERATION: dict[str, tuple[tuple[Any, ...], str]] = {
    "bad_words_ids": (([],), "which tokens are never written"),
    "suppress_tokens": (([],), "which tokens are never written"),
    "begin_suppress_tokens": (([],), "which tokens never begin a response"),
    "forced_bos_token_id": ((), "the first token of every response"),
    "forced_eos_token_id": ((), "the last token of every response"),
    "force_words_ids": (([],), "the words that every response holds"),
    "constraints": (([],), "what every response holds"),
    "sequence_bias": (({}, []), "the logits of certain tokens"),
    "exponential_decay_length_penalty": ((), "the logit of the end token"),
    "no_repeat_ngram_size": ((0,), "which tokens may follow a repeated text"),
    "encoder_no_repeat_ngram_size": ((0,), "which tokens may follow a text of the prompt"),
    "guidance_scale": ((1,), "the logits, by a second prompt"),
    "watermarking_config": ((), "the logits, by a watermark"),
    "penalty_alpha": ((0,), "the choice among tokens, by their hidden states"),
    "dola_layers": ((), "the logits, by those of earlier layers"),
}
_HARMLESS_NAMES = frozenset(name for names in HARMLESS.values() for name in names)


def check_config(fields: Mapping[str, Any], origin: str, family: str) -> None:
    """Refuse a config.json with a key that changes what the model computes, or may do so.

    Raises:
      UserError: names the key, its value, and what it changes.
    """
    # Qwen2 has biases on three projections, whatever this says.
    ignored = {"attention_bias"} if family == "qwen2" else set()
    _check({name: fields[name] for name in fields if name not in ignored}, origin)


def check_generation_config(fields: Mapping[str, Any], origin: str) -> None:
    """Refuse a generation_config.json that changes which tokens a model may write.

    Settings of sampling are not used: the project's own config has them.

    Raises:
      UserError: names the key, its value, and what it changes.
    """
    _check(fields, origin)


def _check(fields: Mapping[str, Any], origin: str) -> None:
    refused = OFF | OFF_IN_GENERATION
    for name, value in fields.items():
        if value is None or name in USED or name in _HARMLESS_NAMES:
            continue
        if name not in refused:
            raise UserError(
                f"{origin}: the key {name!r} (= {value!r}) is not known, and it may change what "
                "the model computes; remove it from the file if transformers computes the same "
                "without it"
            )
        off, effect = refused[name]
        if name == "layer_types" and isinstance(value, list) and set(value) == {"full_attention"}:
            continue
        if value not in off:
            only = f"; only {' or '.join(map(repr, off))} is" if off else ""
            raise UserError(
                f"{origin}: {name} = {value!r} is not supported{only}: it changes {effect}; use a "
                "model without it"
            )
