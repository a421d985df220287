// A decoder of Llama's kind as one call a step: norms, products, rotary positions, attention over a cache, gated MLP, output layer.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lowbit {

struct PackedLinear;

// y = x W^T + bias, with W packed or as float32
struct Product {
  const PackedLinear* packed;
  const float* dense;  // (out, in), where it is not packed
  const float* bias;   // or null
  size_t out, in;
  bool int8;  // every row of x in int8, for packed weights
};

struct DecoderBlock {
  const float *norm, *post_norm, *q_norm, *k_norm;  // q_norm and k_norm act on heads; null where there are none
  Product q, k, v, o, gate, up, down;
};

// Widths and head_dim are multiples of 16.
struct Decoder {
  size_t hidden, heads, kv_heads, head_dim, intermediate;
  float eps, scale;              // of the norms; of the scores
  const float *cosine, *sine;    // (positions, head_dim / 2)
  const float* norm;
  Product head;
  std::vector<DecoderBlock> blocks;
};

// Keys (blocks, batch, kv_heads, capacity / 16, head_dim, 16) and values (blocks, batch, kv_heads, capacity, head_dim) of `length` tokens.
struct KeyValues {
  size_t batch, capacity, length;
  std::vector<float> keys, values;
  std::vector<float> work, input;  // between the products of a step; kept, so that no step pays for fresh pages
};

KeyValues new_cache(const Decoder& d, size_t batch, size_t capacity);

// The tokens x (batch, length, hidden) follow those of the cache. Logits (batch, vocabulary) of the last ones, or of all
// (batch, length, vocabulary). x is overwritten.
void step(const Decoder& d, KeyValues& cache, float* x, size_t length, float* logits, bool all_logits, int threads);

}  // namespace lowbit
