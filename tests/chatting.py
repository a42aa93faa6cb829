"""A tokenizer of bytes with chat templates as models have them, and a small Llama that reads it."""

import torch

SPECIAL = ("<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<end_of_turn>")

CHATML = """{% for m in messages %}\
{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}\
{{ '<|im_start|>' + m.role + '\n' }}\
{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}\
{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}\
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}\
{% endif %}{{ '<start>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}\
{{ m.content | trim }}{{ '<end_of_turn>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start>model\n' }}{% endif %}"""

INST = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}\
{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}\
{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""

THINK = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}\
{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}\
{{ m.content + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

NO_END = """{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""

FORCED = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"""


def tokenizer(template=CHATML, end="<|im_end|>", adds_start=False):
    """Bytes, with a start in front of plain texts if `adds_start`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate([*SPECIAL, *alphabet])}
    made = Tokenizer(models.BPE(words, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    if adds_start:
        made.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>", eos_token=end, pad_token="<pad>"
    )
    fast.chat_template = template
    return fast


def base(folder, made, positions=512, learnt_positions=False):
    """A small random Llama, or a GPT-2 that has learnt positions, with this tokenizer."""
    import transformers as hf

    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=made.eos_token_id)
    config = hf.LlamaConfig(vocab_size=len(made), max_position_embeddings=positions, **sizes, **ids)
    model = hf.LlamaForCausalLM(config)
    if learnt_positions:
        sizes = dict(n_positions=positions, n_embd=32, n_layer=2, n_head=4)
        model = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=len(made), **sizes, **ids))
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder
