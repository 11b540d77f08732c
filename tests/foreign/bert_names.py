"""GPT-2 with the names of a BERT: attention.self.query, intermediate.dense; an additive mask and a class of outputs."""

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class CausalLMOutput:
    logits: torch.Tensor
    hidden_states: tuple


@dataclass
class BertishConfig:
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-5


class SelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.all_head_size = self.num_attention_heads * self.attention_head_size
        self.query = nn.Linear(config.hidden_size, self.all_head_size)
        self.key = nn.Linear(config.hidden_size, self.all_head_size)
        self.value = nn.Linear(config.hidden_size, self.all_head_size)

    def transpose_for_scores(self, x):
        new_shape = (*x.size()[:-1], self.num_attention_heads, self.attention_head_size)
        return x.view(new_shape).permute(0, 2, 1, 3)

    def forward(self, hidden_states, attention_mask):
        query_layer = self.transpose_for_scores(self.query(hidden_states))
        key_layer = self.transpose_for_scores(self.key(hidden_states))
        value_layer = self.transpose_for_scores(self.value(hidden_states))
        attention_scores = torch.matmul(query_layer, key_layer.transpose(-1, -2))
        attention_scores = attention_scores / math.sqrt(self.attention_head_size)
        attention_scores = attention_scores + attention_mask
        attention_probs = nn.functional.softmax(attention_scores, dim=-1)
        context_layer = torch.matmul(attention_probs, value_layer)
        context_layer = context_layer.permute(0, 2, 1, 3).contiguous()
        return context_layer.view(*context_layer.size()[:-2], self.all_head_size)


class Output(nn.Module):
    def __init__(self, size_in, config):
        super().__init__()
        self.dense = nn.Linear(size_in, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states, input_tensor):
        return self.dropout(self.dense(hidden_states)) + input_tensor


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": Output(config.hidden_size, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = Output(config.intermediate_size, config)
        self.LayerNorm_in = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.LayerNorm_mid = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states, attention_mask):
        self_output = self.attention["self"](self.LayerNorm_in(hidden_states), attention_mask)
        attention_output = self.attention["output"](self_output, hidden_states)
        intermediate = self.intermediate["dense"](self.LayerNorm_mid(attention_output))
        intermediate = nn.functional.gelu(intermediate, approximate="tanh")
        return self.output(intermediate, attention_output)


class BertishForCausalLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings).expand((1, -1)))
        self.layer = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_extended_attention_mask(self, seq_length, dtype):
        allowed = torch.tril(torch.ones(seq_length, seq_length, dtype=dtype))
        return (1.0 - allowed)[None, None, :, :] * torch.finfo(dtype).min

    def forward(self, input_ids):
        seq_length = input_ids.size(1)
        position_ids = self.position_ids[:, :seq_length]
        hidden_states = self.word_embeddings(input_ids) + self.position_embeddings(position_ids)
        mask = self.get_extended_attention_mask(seq_length, hidden_states.dtype)
        all_hidden_states = (hidden_states,)
        for layer_module in self.layer:
            hidden_states = layer_module(hidden_states, mask)
            all_hidden_states = (*all_hidden_states, hidden_states)
        sequence_output = self.LayerNorm(hidden_states)
        return CausalLMOutput(logits=self.decoder(sequence_output), hidden_states=all_hidden_states)
