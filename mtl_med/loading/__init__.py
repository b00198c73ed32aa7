"""Loading: from a study folder to batches."""

from mtl_med.loading.balance import class_counts, class_weights, sampling_weights
from mtl_med.loading.datalist import (
    INPUTS,
    check_inputs,
    input_channels,
    input_items,
    median_spacing,
    spacing_for,
    study_facts,
    study_items,
)
from mtl_med.loading.dataset import EpochSampler, SampleKey, SeededCacheDataset, training_loader, validation_loader
from mtl_med.loading.labels import hide_labels, only_labelled
from mtl_med.loading.picture_pipelines import (
    SCALINGS,
    picture_inference_transforms,
    picture_training_transforms,
    picture_validation_transforms,
)
from mtl_med.loading.pipelines import inference_transforms, training_transforms, validation_transforms
from mtl_med.loading.resizing import resize_smoothly
from mtl_med.loading.volume_pipelines import (
    volume_inference_transforms,
    volume_training_transforms,
    volume_validation_transforms,
)

__all__ = [
    "INPUTS",
    "SCALINGS",
    "EpochSampler",
    "SampleKey",
    "SeededCacheDataset",
    "check_inputs",
    "class_counts",
    "class_weights",
    "hide_labels",
    "inference_transforms",
    "input_channels",
    "input_items",
    "median_spacing",
    "only_labelled",
    "picture_inference_transforms",
    "picture_training_transforms",
    "picture_validation_transforms",
    "resize_smoothly",
    "sampling_weights",
    "spacing_for",
    "study_facts",
    "study_items",
    "training_loader",
    "training_transforms",
    "validation_loader",
    "validation_transforms",
    "volume_inference_transforms",
    "volume_training_transforms",
    "volume_validation_transforms",
]
