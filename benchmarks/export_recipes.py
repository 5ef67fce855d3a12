"""Networks of torchvision, timm and transformers: how each is made, and what goes in.

Weights are random, and most networks are narrower and shallower than the published ones, so that
each is made and exported in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SIZES = {
    "batch": 2, "length": 48, "target": 11, "height": 128, "width": 128, "frames": 60,
    "samples": 8000,
}  # fmt: skip
"""The free sizes by name, and what they are when a network is exported and measured."""


@dataclass(frozen=True)
class Export:
    """A function of `module` with its arguments, or a class of transformers with those of its
    configuration, where {"is": NAME} is a configuration inside of it. An input is a shape, with
    words for free sizes, behind what its elements are, if not normal floats: "<9: 2 8" are integers
    below 9, "1: 2 8" integer ones. `outputs` are names, for what gives more than arrays; `dynamo`
    takes torch's newer exporter, which needs onnxscript."""

    module: str
    name: str
    arguments: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: tuple[str, ...] = ()
    dynamo: bool = False


EXPORTS: dict[str, Export] = {}


def _image_networks() -> None:
    fixed, free = "1 3 224 224", "batch 3 height width"
    for name, shape in (
        ("resnet18", free), ("mobilenet_v3_small", free), ("efficientnet_b0", fixed),
        ("densenet121", fixed), ("squeezenet1_1", fixed), ("shufflenet_v2_x1_0", "batch 3 224 224"),
        ("regnet_x_400mf", fixed), ("convnext_tiny", fixed), ("swin_t", fixed),
    ):  # fmt: skip
        EXPORTS[name] = Export("torchvision.models", name, {"weights": None}, {"x": shape})
    name = "lraspp_mobilenet_v3_large"
    made: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 21}
    where = "torchvision.models.segmentation"
    EXPORTS[name] = Export(where, name, made, {"input": free}, ("out",))
    for name, shape in (
        ("mobilenetv4_conv_small", free), ("repvgg_a0", fixed), ("ghostnet_100", fixed),
        ("mixer_s32_224", "batch 3 224 224"), ("xcit_nano_12_p16_224", fixed),
    ):  # fmt: skip
        made = {"model_name": name, "num_classes": 100}
        EXPORTS[name] = Export("timm", "create_model", made, {"x": shape})


def _transformers(
    names: str,
    inputs: Mapping[str, str],
    outputs: str,
    arguments: Mapping[str, Any],
    dynamo: bool = False,
) -> None:
    for name in names.split():
        made = Export("transformers", name, arguments, inputs, tuple(outputs.split()), dynamo)
        EXPORTS[f"{name} (dynamo)" if dynamo else name] = made


_WIDE = {
    "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 1024
}  # fmt: skip
_TEXT = _WIDE | {"vocab_size": 1000, "use_cache": False}


_WORDS = {"input_ids": "<1000: batch length", "attention_mask": "1: batch length"}


_HALF = {"layers": 2, "attention_heads": 4, "ffn_dim": 512}
"""Of an encoder or a decoder."""


def _encoders() -> None:
    state = "last_hidden_state"
    names = "BertModel RobertaModel RoFormerModel ElectraModel ConvBertModel MPNetModel AlbertModel"
    _transformers(names, _WORDS, state, _TEXT)
    _transformers("BertModel ModernBertModel", _WORDS, state, _TEXT | {"pad_token_id": 0}, True)
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    fixed = {"input_ids": "<1000: 2 48", "attention_mask": "1: 2 48"}
    _transformers("DebertaV2Model", fixed, state, _TEXT | relative)


def _decoders() -> None:
    narrow = {"n_embd": 256, "n_layer": 3, "n_head": 4, "vocab_size": 1000, "use_cache": False}
    _transformers("GPT2LMHeadModel CodeGenForCausalLM", _WORDS, "logits", narrow)
    grouped = _TEXT | {"num_attention_heads": 8, "num_key_value_heads": 2}
    names = "LlamaForCausalLM StableLmForCausalLM Olmo2ForCausalLM"
    _transformers(names, _WORDS, "logits", grouped)
    names = "LlamaForCausalLM Qwen3ForCausalLM Exaone4ForCausalLM"
    _transformers(names, _WORDS, "logits", grouped, True)


def _translators() -> None:
    words = {"input_ids": "<1000: batch length", "decoder_input_ids": "<1000: batch target"}
    both = {"vocab_size": 1000, "d_model": 192, "use_cache": False}
    t5 = {"num_layers": 2, "num_heads": 4, "d_kv": 48, "d_ff": 512}
    _transformers("T5ForConditionalGeneration", words, "logits", both | t5)
    bart = {f"{side}_{key}": size for side in ("encoder", "decoder") for key, size in _HALF.items()}
    _transformers("MBartForConditionalGeneration", words, "logits", both | bart)


def _picture_transformers() -> None:
    picture, free = {"pixel_values": "batch 3 224 224"}, {"pixel_values": "batch 3 height width"}
    names = "ViTForImageClassification Dinov2ForImageClassification"
    _transformers(names, picture, "logits", _WIDE | {"image_size": 224})
    _transformers("SegformerForSemanticSegmentation", free, "logits", {"num_labels": 20})
    names = "MobileViTForImageClassification LevitForImageClassification"
    _transformers(names, picture, "logits", {})
    _transformers("PvtV2ForImageClassification", {"pixel_values": "1 3 224 224"}, "logits", {})
    body = {
        "is": "ResNetConfig", "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1],
        "embedding_size": 16, "layer_type": "basic", "out_features": ["stage4"],
    }  # fmt: skip
    detector: dict[str, Any] = {"backbone_config": body, "d_model": 64, "num_queries": 30}
    detector |= {"backbone": None, "use_timm_backbone": False, "use_pretrained_backbone": False}
    for side in ("encoder", "decoder"):
        detector |= {f"{side}_{key}": size for key, size in _HALF.items()}
    whole = {"pixel_values": "1 3 height width"}
    _transformers("ConditionalDetrForObjectDetection", whole, "logits pred_boxes", detector)


def _sound_networks() -> None:
    waves = {"conv_dim": (64,) * 7, "num_conv_pos_embeddings": 32}
    waves |= {"num_conv_pos_embedding_groups": 4}
    sound = {"input_values": "batch samples"}
    _transformers("Wav2Vec2Model HubertModel", sound, "last_hidden_state", _WIDE | waves)
    frames = {"input_features": "batch frames 80"}
    made = _WIDE | {"feature_projection_input_dim": 80}
    _transformers("Wav2Vec2BertModel", frames, "last_hidden_state", made)
    made = {"model_in_dim": 40, "upsample_initial_channel": 128}
    _transformers("SpeechT5HifiGan", {"spectrogram": "batch frames 40"}, "", made)


for _family in (
    _image_networks, _encoders, _decoders, _translators, _picture_transformers, _sound_networks
):  # fmt: skip
    _family()
