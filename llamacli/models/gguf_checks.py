"""The checks that keep llama.cpp from dying of a GGUF file. Standard library only.

llama.cpp refuses much that is wrong with a file, but some faults end the whole process (`GGML_ASSERT`, a division by
zero, a null pointer). `check` looks for those faults before llama.cpp sees the file. What llama.cpp refuses cleanly by
itself is left to it, unless a better message costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from llamacli.errors import BadModelFile, ModelNotFound
from llamacli.models.ggml_types import F32, type_name
from llamacli.models.gguf import (
    DEFAULT_ALIGNMENT,
    DOWNLOAD_AGAIN,
    MAX_LAYERS,
    STRING,
    UINT16,
    Array,
    Header,
    bad,
    brief,
    path_text,
    read_header,
    shape_text,
)

_MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
_MAX_WINDOW = 1 << 26
_BYTE_TOKEN = 6  # LLAMA_TOKEN_TYPE_BYTE


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# GGML_ASSERT(n_expert > 0), or an integer division by n_expert_used
_MOE_ARCHITECTURES = _names(
    """
    bailingmoe2 glm4moe grovemoe lfm2moe llada-moe mellum qwen2moe qwen35moe qwen3moe qwen3next qwen3vlmoe rnd1
    smallthinker
    """
)
# their ggml_rope_multi asserts that the three sections are not all empty
_MROPE_ARCHITECTURES = _names("paddleocr qwen2vl qwen35 qwen35moe qwen3tts qwen3vl qwen3vlmoe qwen4exp")
# n_embd / n_head(0) as integers
_DIVIDE_BY_HEADS = _names("gemma2 gemma3 olmo2 phimoe")
# d_inner / n_group or n_v_heads % n_group as integers
_DIVIDE_BY_GROUPS = _names("falcon-h1 granitehybrid mamba2 nemotron_h nemotron_h_moe qwen35 qwen35moe qwen3next")
# GGML_ASSERT(n_embd_head == hparams.n_embd_head_k()) when their graph is built: heads of keys and values are alike
_EVEN_HEADS = _names(
    """
    afmoe apertus arcee arctic baichuan bailingmoe2 bert bitnet bloom chameleon chatglm codeshell cogvlm cohere2
    cohere2moe command-r dbrx deci deepseek dflash dots1 dream eagle3 ernie4_5 ernie4_5-moe eurobert exaone falcon
    glm4 glm4moe gpt2 gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hunyuan-dense
    hunyuan-moe hunyuan_vl hy_v3 internlm2 jais jais2 jina-bert-v2 jina-bert-v3 laguna llada llada-moe llama llama-
    embed llama4 maincoder mellum minicpm minimax-01 minimax-m2 minimax-m3 mistral3 modern-bert mpt muse-glimmer
    nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmoe openelm orion
    paddleocr pangu-embedded phi2 phi3 phimoe plamo pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe
    qwen3moe qwen3next qwen3vl qwen3vlmoe qwen4exp refact rnd1 seed_oss smallthinker smollm3 spark2_5 stablelm
    starcoder starcoder2 t5 t5encoder xverse
    """
)
# GGML_ASSERT(n_embd_head == n_rot): RoPE turns whole heads
_WHOLE_ROPE = _names(
    """
    apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci deepseek dots1 dream ernie4_5
    ernie4_5-moe exaone exaone-moe exaone4 falcon granite granite_swa granitemoe graniteswitch grok grovemoe
    hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais2 llada llada-moe llama llama-embed llama4 maincoder
    mellum minicpm mistral3 olmo olmo2 olmoe orion paddleocr pangu-embedded plamo pockettts qwen2 qwen2moe qwen2vl
    qwen3 qwen3moe qwen3vl qwen3vlmoe rnd1 seed_oss smallthinker smollm3 starcoder2 talkie xverse
    """
)


def _check_kind(header: Header) -> None:
    """Files that are GGUF, but no language model. llama.cpp only says that it cannot load them."""
    kind = header.text("general.type")
    if header.architecture == "clip" or kind == "mmproj":
        hint = "name the model it belongs to"
        raise bad(header.path, "a projector for images or sound (mmproj), not a language model", hint)
    if kind == "adapter":
        raise bad(header.path, "a LoRA adapter, not a model", "name the model it was trained for")
    if kind == "imatrix":
        raise bad(header.path, "an importance matrix, not a model")
    if not header.architecture:
        raise bad(header.path, "general.architecture is missing: not a language model")


def _check_layers(header: Header) -> None:
    """GGML_ASSERT(n_layer_all > 0 && n_layer_all <= LLAMA_MAX_LAYERS) and its like in load_hparams."""
    n_layer = header.hparam("block_count")
    if not isinstance(n_layer, int):
        return
    if not 0 < n_layer <= MAX_LAYERS:
        raise bad(header.path, f"block_count is {n_layer:,}; between 1 and {MAX_LAYERS} layers are possible")
    for name in ("nextn_predict_layers", "posnet.block_count", "convnext.block_count"):
        n = header.hparam(name)
        if isinstance(n, int) and n > n_layer:
            raise bad(header.path, f"{name} is {n:,}, more than its {n_layer} layers")


def _check_experts(header: Header) -> None:
    """GGML_ASSERT(n_expert_used <= n_expert) and its like in load_hparams."""
    n_expert = header.hparam("expert_count") or 0
    n_groups = header.hparam("expert_group_count") or 0
    group_used = header.hparam("expert_group_used_count") or 0
    used = max((n for n in header.per_layer("expert_used_count") if isinstance(n, int)), default=0)
    if not isinstance(n_expert, int) or not isinstance(n_groups, int) or not isinstance(group_used, int):
        return
    if header.architecture in ("hunyuan_vl", "hunyuan-dense") and n_expert <= 1:
        return  # llama.cpp takes these as models without experts
    if n_expert == 0 and header.architecture in _MOE_ARCHITECTURES:
        raise bad(header.path, f"expert_count is missing or 0, but {brief(header.architecture)} models have experts")
    if n_expert > _MAX_EXPERTS:
        raise bad(header.path, f"expert_count is {n_expert:,}; at most {_MAX_EXPERTS} experts are possible")
    if used > n_expert or (used == 0) != (n_expert == 0):
        raise bad(header.path, f"expert_used_count is {used:,} of {n_expert:,} experts")
    if n_groups > 0 and n_groups >= n_expert:
        raise bad(header.path, f"expert_group_count is {n_groups:,} for {n_expert:,} experts")
    if n_groups > 1 and (n_expert % n_groups or not 0 < group_used < n_groups):
        raise bad(header.path, f"{group_used:,} of {n_groups:,} groups used for {n_expert:,} experts")


def _check_heads(header: Header) -> None:
    """ggml_mul_mat and ggml_flash_attn_ext assert that the query heads are a multiple of the key heads.

    Architectures that divide by a number end by SIGFPE where it is 0.
    """
    heads = header.per_layer("attention.head_count")
    heads_kv = header.per_layer("attention.head_count_kv")
    if header.architecture in _DIVIDE_BY_HEADS and (not heads or heads[0] == 0):
        raise bad(header.path, "attention.head_count is missing or 0")
    if header.architecture in _DIVIDE_BY_GROUPS and header.hparam("ssm.group_count") == 0:
        raise bad(header.path, "ssm.group_count is 0")
    layers = max(len(heads), len(heads_kv)) if heads and heads_kv else 0
    for layer in range(layers):
        n_head, n_kv = heads[layer % len(heads)], heads_kv[layer % len(heads_kv)]
        if isinstance(n_head, int) and isinstance(n_kv, int) and n_kv > 0 and n_head % n_kv:
            raise bad(header.path, f"{n_head:,} attention heads cannot share {n_kv:,} key/value heads")


def _check_rope_scaling(header: Header) -> None:
    """GGML_ASSERT(rope_scaling_type_train != LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED) in load_hparams."""
    if isinstance(header.hparam("rope.scaling.type"), str):
        scaling = header.text(f"{header.architecture}.rope.scaling.type")
        if scaling not in ("none", "linear", "yarn", "longrope"):
            raise bad(header.path, f"rope.scaling.type is {brief(repr(scaling))}, which llama.cpp does not know")


def _check_head_dimensions(header: Header) -> None:
    """GGML_ASSERT(n_dims <= ne0) and (n_dims % 2 == 0) in ggml_rope, and what architectures assert of their heads."""
    heads, n_embd = header.per_layer("attention.head_count"), header.hparam("embedding_length")
    if not heads or not isinstance(heads[0], int) or heads[0] <= 0 or not isinstance(n_embd, int):
        return
    key = _number(header, "attention.key_length", n_embd // heads[0])
    value = _number(header, "attention.value_length", n_embd // heads[0])
    n_rot = _number(header, "rope.dimension_count", key)
    key_swa = _number(header, "attention.key_length_swa", key)  # of layers with a sliding window
    n_rot_swa = _number(header, "rope.dimension_count_swa", n_rot)
    for rot, dim in ((n_rot, key), (n_rot_swa, key_swa)):
        if rot > dim or rot % 2:
            raise bad(header.path, f"RoPE turns {rot:,} of the {dim:,} dimensions of an attention head")
    if (key_swa, n_rot_swa) != (key, n_rot):
        return
    if value != key and header.architecture in _EVEN_HEADS:
        raise bad(header.path, f"the heads of keys have {key:,} dimensions, those of values {value:,}")
    if n_rot != value and header.architecture in _WHOLE_ROPE:
        raise bad(header.path, f"RoPE turns {n_rot:,} of the {value:,} dimensions of an attention head")
    if header.architecture in _WHOLE_ROPE or header.architecture == "gpt-oss":
        _check_head_tensors(header, key)


_HEADS_OF = re.compile(r"blk\.(\d+)\.attn_([qk])\.weight")


def _check_head_tensors(header: Header, head_dim: int) -> None:
    """GGML_ASSERT(ggml_nelements(a) == ne0*ne1*ne2) in ggml_reshape_3d, where the heads are told apart."""
    counts = {"q": header.per_layer("attention.head_count")}
    counts["k"] = header.per_layer("attention.head_count_kv") or counts["q"]
    for tensor in header.tensors:
        if found := _HEADS_OF.fullmatch(tensor.name):
            per_layer, layer = counts[found[2]], int(found[1])
            n_head = per_layer[layer if layer < len(per_layer) else 0]
            if isinstance(n_head, int) and tensor.shape[1:] != (n_head * head_dim,):
                heads = f"{n_head:,} heads of {head_dim:,} dimensions"
                raise bad(
                    header.path, f"the tensor {tensor.name} has the shape {shape_text(tensor.shape)}, not {heads}"
                )


def _number(header: Header, name: str, default: int) -> int:
    value = header.hparam(name)
    return value if isinstance(value, int) else default


def _check_rope_sections(header: Header) -> None:
    """GGML_ASSERT(sections[0] > 0 || …) and (sect_dims <= ne0) in ggml_rope_multi; a division by their sum."""
    sections = [n for n in header.per_layer("rope.dimension_sections") if isinstance(n, int)]
    sections = 4 * sections if len(sections) == 1 else sections  # llama.cpp repeats a single number
    heads, n_embd = header.per_layer("attention.head_count"), header.hparam("embedding_length")
    shown = brief(", ".join(str(n) for n in sections[:8]))
    if not any(n > 0 for n in sections[:3]) and header.architecture in _MROPE_ARCHITECTURES:
        raise bad(header.path, f"rope.dimension_sections is {shown or 'missing'}: no section has dimensions")
    if sections and heads and isinstance(heads[0], int) and heads[0] > 0 and isinstance(n_embd, int):
        head_dim = _number(header, "attention.key_length", n_embd // heads[0])
        if min(sections) < 0 or sum(sections[:4]) > head_dim:
            raise bad(header.path, f"rope.dimension_sections is {shown} for heads of {head_dim:,} dimensions")


def _check_sliding_window(header: Header) -> None:
    """GGML_ASSERT(hparams.is_swa_any()), and 4 bytes for each position of the window when the mask is made."""
    window, pattern = header.hparam("attention.sliding_window"), header.hparam("attention.sliding_window_pattern")
    if isinstance(window, int) and window > _MAX_WINDOW:
        raise bad(header.path, f"attention.sliding_window is {window:,} tokens; at most {_MAX_WINDOW:,} is plausible")
    if window and type(pattern) is int and pattern == 1:
        raise bad(header.path, "attention.sliding_window_pattern is 1: no layer has a sliding window")


def _check_epsilon(header: Header) -> None:
    """GGML_ASSERT(eps >= 0.0f) in ggml_rms_norm and ggml_norm; NaN fails it, too."""
    for name in ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon"):
        eps = header.hparam(f"attention.{name}")
        if isinstance(eps, float) and not eps >= 0:
            raise bad(header.path, f"attention.{name} is {eps}, not a positive number")


def _check_pooling(header: Header) -> None:
    """GGML_ABORT("unknown pooling type") when embeddings are computed."""
    for name in ("pooling_type", "classifier.pooling_type"):
        pooling = header.hparam(name)
        if isinstance(pooling, int) and not 0 <= pooling <= 4 and pooling != 0xFFFFFFFF:
            raise bad(header.path, f"{name} is {pooling:,}, which llama.cpp does not know")


def _check_tokenizer(header: Header) -> None:
    """GGML_ASSERT(tokenizer && ...) when a text is tokenised, a division by zero for an empty vocabulary."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if header.text("tokenizer.ggml.model") in ("none", "no_vocab"):
        raise bad(header.path, "holds no vocabulary, so it cannot be used with text")
    if isinstance(tokens, Array) and tokens.count == 0:
        raise bad(header.path, "its vocabulary is empty")


def _check_tokens(header: Header) -> None:
    """GGML_ASSERT(id_to_token.size() == token_to_id.size()) when the vocabulary is loaded."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array) or tokens.element_type != STRING:
        return
    texts = tokens.strings()
    # llama.cpp sees C strings, and gives a token without text a name
    known = {_token_text(text, i) if not text or 0 in text else text for i, text in enumerate(texts)}
    if len(known) < len(texts):
        raise _twice(header.path, texts)
    model = header.text("tokenizer.ggml.model")
    if model == "llama":
        _check_byte_tokens(header.path, known)
    if model == "rwkv":
        _check_rwkv_tokens(header.path, known)


def _twice(path: Path, texts: list[bytes]) -> BadModelFile:
    seen: dict[bytes, int] = {}
    for i, text in enumerate(texts):
        first = seen.setdefault(_token_text(text, i), i)
        if first != i:
            break
    shown = brief(repr(text.decode("utf-8", "replace")))
    return bad(path, f"the tokens {first} and {i} have the same text {shown}")


def _check_byte_tokens(path: Path, known: set[bytes]) -> None:
    """An uncaught std::out_of_range (unordered_map::at) when a text needs the byte.

    Vocabularies without any byte tokens do exist; SentencePiece writes all 256 or none, so a gap is damage. Without the
    space, too, it is no SentencePiece vocabulary at all.
    """
    missing = [byte for byte in range(256) if b"<0x%02X>" % byte not in known]
    if len(missing) == 256 and "▁".encode() in known:
        return
    missing = [byte for byte in missing if bytes([byte]) not in known]  # the plain character does as well
    if missing:
        raise bad(path, f"{len(missing)} of the 256 byte tokens are missing, for instance <0x{missing[0]:02X}>")


def _token_text(text: bytes, token: int) -> bytes:
    return text.partition(b"\0")[0] or b"[EMPTY_%d]" % token


_RWKV_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|(.))", re.DOTALL)
_RWKV_ESCAPES = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def _check_rwkv_tokens(path: Path, known: set[bytes]) -> None:
    """An endless loop that eats the memory: a byte that begins a token, but is none, is never passed."""

    def unescaped(found: re.Match[bytes]) -> bytes:
        return bytes([int(found[1], 16)]) if found[1] else _RWKV_ESCAPES.get(found[2], found[2])

    texts = {_RWKV_ESCAPE.sub(unescaped, text) if b"\\" in text else text for text in known}
    missing = {text[:1] for text in texts} - texts
    if missing:
        raise bad(path, f"{len(missing)} bytes begin a token, but are no tokens themselves ({min(missing)!r})")


class _Special(NamedTuple):
    """A token that a tokenizer puts around each text: which llama.cpp asserts to exist when it does so."""

    name: str
    default: int | None  # its id, unless the file names another
    flag: str  # the key that says whether it is added, if there is a choice
    added: bool  # whether it is added when the file is silent


_BOS_11, _EOS_11 = _Special("bos", 11, "add_bos_token", True), _Special("eos", 11, "add_eos_token", False)
# by tokenizer.ggml.model; for "gpt2" it depends on the pre-tokenizer whether BOS is added, its default is harmless
_SPECIAL_TOKENS: Mapping[str, tuple[_Special, ...]] = {
    "llama": (_Special("bos", 1, "add_bos_token", True), _Special("eos", 2, "add_eos_token", False)),
    "bert": (_Special("bos", 101, "", True), _Special("seperator", 102, "", True)),  # sic
    "gpt2": (_BOS_11, _EOS_11),
    "hybriddna": (_BOS_11, _EOS_11),
    "whitespace": (_BOS_11, _EOS_11),
    "t5": (_Special("bos", None, "add_bos_token", False), _Special("eos", 1, "add_eos_token", True)),
    "gemma4": (_Special("bos", None, "", True), _Special("eos", None, "add_eos_token", False)),
}


def _check_special_tokens(header: Header) -> None:
    """GGML_ASSERT(special_bos_id != LLAMA_TOKEN_NULL) and its like when a text is tokenised."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array):
        return
    for special in _SPECIAL_TOKENS.get(header.text("tokenizer.ggml.model"), ()):
        flag = header.metadata.get(f"tokenizer.ggml.{special.flag}")
        if not (flag if isinstance(flag, bool) else special.added):
            continue
        token = header.metadata.get(f"tokenizer.ggml.{special.name}_token_id")
        if not any(isinstance(i, int) and 0 <= i < tokens.count for i in (token, special.default)):
            is_ = "missing" if token is None else f"{brief(str(token))} in a vocabulary of {tokens.count:,}"
            raise bad(header.path, f"every text gets the {special.name} token, but {special.name}_token_id is {is_}")


def _check_token_types(header: Header) -> None:
    """GGML_ABORT("fatal error") in token_to_byte: WordPiece vocabularies have no byte tokens."""
    types = header.metadata.get("tokenizer.ggml.token_type")
    if header.text("tokenizer.ggml.model") == "bert" and isinstance(types, Array) and _BYTE_TOKEN in types.values():
        raise bad(header.path, "a WordPiece vocabulary (tokenizer.ggml.model is bert) with byte tokens")


def _check_has_weights(header: Header) -> None:
    if header.tensors or header.n_split > 1:  # the first part of a split model may hold the metadata only
        return
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    what = f"a vocabulary only ({tokens.count:,} tokens), no weights" if isinstance(tokens, Array) else "no tensors"
    raise bad(header.path, f"holds {what}", "name a file with the whole model")


# Types of weights that the CPU can multiply with; the others are for intermediate results and integers.
_NO_WEIGHTS = frozenset({9, 15, 24, 25, 26, 27, 28})  # Q8_1, Q8_K, I8, I16, I32, I64, F64
_INTEGERS = frozenset({26, 27})
_INTEGER_TENSORS = ("d2t", "t2d", "tid2eid.weight", "tid2eid", "position_ids")  # token ids and expert ids
# Vectors are added or multiplied element by element, where the CPU knows F32 only; so do these, whatever their shape.
# llama.cpp's own converter writes all of them in F32.
_F32_ONLY = ("norm.weight", ".bias", ".scale", "ssm_a", "ssm_d", "ssm_conv1d.weight", "shortconv.conv.weight")


def _check_tensor_types(header: Header) -> None:
    """A null vec_dot in ggml_mul_mat (segfault), GGML_ABORT in get_rows and binary_op ("unsupported types")."""
    for tensor in header.tensors:
        if tensor.type == F32:
            continue
        integers = tensor.type in _INTEGERS and tensor.name.endswith(_INTEGER_TENSORS)
        if tensor.type in _NO_WEIGHTS and not integers:
            raise bad(
                header.path,
                f"the tensor {brief(tensor.name)} has the type {type_name(tensor.type)}, which cannot hold weights",
            )
        if (len(tensor.shape) == 1 or tensor.name.endswith(_F32_ONLY)) and not integers:
            raise bad(
                header.path,
                f"the tensor {brief(tensor.name)} has the type {type_name(tensor.type)}; llama.cpp needs F32 there",
            )


def _check_data_alignment(header: Header) -> None:
    """GGML_ASSERT(ptr % TENSOR_ALIGNMENT == 0) when the mapped file becomes a buffer."""
    if header.tensors and header.data_offset % DEFAULT_ALIGNMENT:
        where = f"at byte {header.data_offset:,}, not a multiple of {DEFAULT_ALIGNMENT}"
        raise bad(header.path, f"the weights start {where} (general.alignment is {header.alignment})")


_SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def _check_split(header: Header) -> None:
    """The other parts of a split model: complete, and not harmful themselves.

    GGML_ASSERT(type_to_gguf_type<T>::value == type) where a part's split.no is not a 16-bit integer.
    """
    n_split = header.n_split
    name = _SPLIT_NAME.fullmatch(header.path.name)
    if n_split == 1:
        return
    number = header.metadata.get("split.no")
    first = f"{name[1]}-00001-of-{n_split:05}.gguf" if name else "the file …-00001-of-…"
    if number != 0:
        shown = number + 1 if isinstance(number, int) else "?"
        raise bad(header.path, f"part {shown} of a model in {n_split} parts", f"name the first part: {brief(first)}")
    if name is None or name[3] != f"{n_split:05}":
        hint = f"its name must end in -00001-of-{n_split:05}.gguf"
        raise bad(header.path, f"the first part of a model in {n_split} parts has been renamed", hint)
    for i in range(1, n_split):
        _check_part(header, header.path.with_name(f"{name[1]}-{i + 1:05}-of-{n_split:05}.gguf"), i)


def _check_part(header: Header, path: Path, number: int) -> None:
    try:
        part = read_header(path)
    except ModelNotFound as error:
        reason = f"part {number + 1} of {header.n_split} is missing: {path_text(path)}"
        raise BadModelFile(reason, hint="download all parts into one folder") from error
    if part.metadata_types.get("split.no") != UINT16 or part.metadata.get("split.no") != number:
        raise bad(path, f"does not say that it is part {number + 1} of {header.n_split}", DOWNLOAD_AGAIN)
    _check_tensor_types(part)
    _check_data_alignment(part)


_CHECKS: tuple[Callable[[Header], None], ...] = (
    _check_kind,
    _check_tokenizer,
    _check_tokens,
    _check_token_types,
    _check_special_tokens,
)
_WEIGHT_CHECKS: tuple[Callable[[Header], None], ...] = (
    _check_has_weights,
    _check_layers,
    _check_experts,
    _check_heads,
    _check_rope_scaling,
    _check_head_dimensions,
    _check_rope_sections,
    _check_sliding_window,
    _check_epsilon,
    _check_pooling,
    _check_tensor_types,
    _check_data_alignment,
    _check_split,
)


def check(header: Header, *, weights: bool = True) -> None:
    """Raise BadModelFile for what would make llama.cpp abort, crash, hang or allocate absurdly.

    With `weights` false the tensors do not matter: only the vocabulary is going to be used. Reads the other parts of a
    split model, too.
    """
    for check_one in _CHECKS:
        check_one(header)
    if weights:
        for check_one in _WEIGHT_CHECKS:
            check_one(header)
