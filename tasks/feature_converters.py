"""From the features of a task to padded arrays of a fixed shape."""

from typing import ClassVar

import seqio
import tensorflow as tf

FLAGS = ("copyable", "span_start", "span_end")


def feature_lengths(prompt_length: int, response_length: int) -> dict[str, int]:
    """Return the lengths that the converter asks for, one for each of a task's features."""
    return {"targets": response_length, **dict.fromkeys(("inputs", *FLAGS), prompt_length)}


class RecallFeatureConverter(seqio.FeatureConverter):
    """Pad prompts and demonstrations to the lengths of the model, with lengths beside them.

    Example in:

        {"inputs": [7, 8, 9], "copyable": [0, 1, 1], "span_start": …, "span_end": …,
         "targets": [5, 2]}

    Example out, with `feature_lengths(5, 3)`:

        {"prompts": [7, 8, 9, 0, 0], "prompt_length": 3, "copyable": [0, 1, 1, 0, 0], …,
         "responses": [5, 2, 0], "response_length": 2}

    SeqIO allows no text beside them: ground truths are read from the task itself.

    A prompt or demonstration longer than its length is refused, never cut: half a context has no
    answer.
    """

    TASK_FEATURES: ClassVar = {
        "inputs": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        "targets": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        **{name: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32) for name in FLAGS},
    }
    MODEL_FEATURES: ClassVar = {
        "prompts": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        "prompt_length": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32, rank=0),
        "responses": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        "response_length": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32, rank=0),
        **{name: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32) for name in FLAGS},
    }
    PACKING_FEATURE_DTYPES = None

    def __init__(self):
        """Create a converter; packing has no meaning for groups."""
        super().__init__(pack=False, apply_length_check=False)

    def get_model_feature_lengths(self, task_feature_lengths):
        """Return the lengths of the model's features."""
        size, response = task_feature_lengths["inputs"], task_feature_lengths["targets"]
        # A scalar counts as length 1.
        lengths = {"prompts": size, "responses": response}
        lengths |= {"prompt_length": 1, "response_length": 1}
        return lengths | dict.fromkeys(FLAGS, size)

    def _convert_features(self, ds, task_feature_lengths):
        size, response = task_feature_lengths["inputs"], task_feature_lengths["targets"]

        def padded(values, length, example_id, name):
            message = tf.strings.format(
                f"{name} of {{}} has {{}} tokens, more than {length}; raise the length",
                (example_id, tf.size(values)),
            )
            with tf.control_dependencies(
                [tf.debugging.Assert(tf.size(values) <= length, [message])]
            ):
                row = tf.pad(values, [[0, length - tf.size(values)]])
            return tf.ensure_shape(row, [length])

        def convert(features):
            example_id = features.get("example_id", tf.constant("an example"))
            out = {
                "prompts": padded(features["inputs"], size, example_id, "the prompt"),
                "prompt_length": tf.size(features["inputs"]),
                "responses": padded(features["targets"], response, example_id, "the response"),
                "response_length": tf.size(features["targets"]),
            }
            for name in FLAGS:
                out[name] = padded(features[name], size, example_id, name)
            return out

        return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
