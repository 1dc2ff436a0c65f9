import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

gguf = pytest.importorskip("gguf")

from lightning_prefix.assets.gguf_file import write_model  # noqa: E402

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIAL, *"abĠĊ12", "ĠĠ", "ab"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
HEADS = {"q_proj": 4, "k_proj": 2}
NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "o_proj": "attn_output",
    **{f"{letter}_proj": f"attn_{letter}" for letter in "qkv"},
    **{f"{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")},
}


def write_gguf(path, model):
    """As llama.cpp writes it; the model's weights become what their 4 bits stand for."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(1000.0)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(TOKENS) - 3))
    writer.add_token_merges(["Ġ Ġ", "a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.model.state_dict().items():
        *path_to, module, _ = name.split(".")
        layer = f"blk.{path_to[1]}." if path_to else ""
        if tensor.ndim == 1:
            writer.add_tensor(f"{layer}{NAMES[module]}.weight", tensor.numpy())
            continue
        values = tensor.clone().numpy()
        if module in HEADS:
            values = values.reshape(HEADS[module], 2, -1, 64).swapaxes(1, 2).reshape(values.shape)
        data = gguf.quantize(values, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(f"{layer}{NAMES[module]}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        plain = gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_1)
        if module in HEADS:
            plain = plain.reshape(HEADS[module], -1, 2, 64).swapaxes(1, 2).reshape(plain.shape)
        tensor.copy_(torch.from_numpy(plain))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def original():
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory):
    unpacked, target = tmp_path_factory.mktemp("unpacked"), tmp_path_factory.mktemp("gguf")
    write_gguf(unpacked / "tiny.gguf", original)
    write_model(unpacked, target)
    return target


def test_logits_are_those_of_the_dequantised_model(original, folder):
    ids = torch.tensor([[1, 3, 4, 9, 10, 7, 2]])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    torch.testing.assert_close(model.float()(ids).logits, original.bfloat16().float()(ids).logits)


def test_tokenizer_splits_digits_and_ends_the_answer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("ab  12<|im_end|>") == ["ab", "ĠĠ", "1", "2", "<|im_end|>"]
    assert list(tokenizer("ab")) == ["input_ids", "attention_mask"]
    assert tokenizer.decode(tokenizer("ab  12").input_ids) == "ab  12"
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.model_max_length) == ("<|im_end|>", "<|im_end|>", 64)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == (
        "<|im_start|>ab<|im_end|>"
    )


def test_generation_ends_at_the_end_token(folder):
    generation = AutoModelForCausalLM.from_pretrained(folder).generation_config
    assert (generation.eos_token_id, generation.pad_token_id) == (2, 2)
