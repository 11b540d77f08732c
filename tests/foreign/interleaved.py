"""GPT-2 in the style of large-scale training code: query, key and value of a head lie together in one fused layer."""

import math

import torch
from torch import nn


class TransformerConfig:
    def __init__(
        self,
        hidden_size=768,
        num_layers=12,
        num_attention_heads=12,
        padded_vocab_size=50304,
        max_position_embeddings=1024,
        hidden_dropout=0.1,
        layernorm_epsilon=1e-5,
    ):
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.padded_vocab_size = padded_vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.hidden_dropout = hidden_dropout
        self.layernorm_epsilon = layernorm_epsilon
        self.ffn_hidden_size = 4 * hidden_size


def attention_mask_func(attention_scores, attention_mask):
    return attention_scores.masked_fill(attention_mask, torch.finfo(attention_scores.dtype).min)


def bias_gelu(bias, y):
    x = bias + y
    return x * 0.5 * (1.0 + torch.tanh(0.79788456080286541 * x * (1 + 0.044715 * x * x)))


class ParallelAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.hidden_size_per_head = config.hidden_size // config.num_attention_heads
        self.norm_factor = math.sqrt(self.hidden_size_per_head)
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states, attention_mask):
        b, s, h = hidden_states.shape
        mixed_x_layer = self.query_key_value(hidden_states)
        mixed_x_layer = mixed_x_layer.view(b, s, self.num_heads, 3 * self.hidden_size_per_head)
        query, key, value = mixed_x_layer.split(self.hidden_size_per_head, dim=-1)
        query, key, value = (y.permute(0, 2, 1, 3) for y in (query, key, value))
        attention_scores = torch.matmul(query, key.transpose(-1, -2)) / self.norm_factor
        attention_scores = attention_mask_func(attention_scores, attention_mask)
        attention_probs = torch.softmax(attention_scores, dim=-1)
        context = torch.matmul(attention_probs, value)
        context = context.permute(0, 2, 1, 3).contiguous().view(b, s, h)
        return self.dense(context)


class ParallelMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.ffn_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size)

    def forward(self, hidden_states):
        intermediate = nn.functional.linear(hidden_states, self.dense_h_to_4h.weight)
        intermediate = bias_gelu(self.dense_h_to_4h.bias, intermediate)
        return self.dense_4h_to_h(intermediate)


class ParallelTransformerLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.self_attention = ParallelAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = ParallelMLP(config)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states, attention_mask):
        layernorm_output = self.input_layernorm(hidden_states)
        attention_output = self.self_attention(layernorm_output, attention_mask)
        layernorm_input = hidden_states + self.hidden_dropout(attention_output)
        layernorm_output = self.post_attention_layernorm(layernorm_input)
        mlp_output = self.mlp(layernorm_output)
        return layernorm_input + self.hidden_dropout(mlp_output)


class GPTNeoStyleModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList([ParallelTransformerLayer(config) for _ in range(config.num_layers)])
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def forward(self, tokens):
        s = tokens.size(1)
        position_ids = torch.arange(s, dtype=torch.long, device=tokens.device).unsqueeze(0).expand_as(tokens)
        attention_mask = torch.tril(torch.ones((1, 1, s, s), device=tokens.device)) < 0.5
        hidden_states = self.word_embeddings(tokens) + self.position_embeddings(position_ids)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask)
        hidden_states = self.final_layernorm(hidden_states)
        return torch.matmul(hidden_states, self.word_embeddings.weight.transpose(0, 1))
