// Whole tensors: cut into tasks of whole blocks, each task on one thread, its numbers in the first-level cache.
#pragma once
#include "ops.h"

namespace lowbit {

// A contiguous tensor as (batch, rows, columns) with blocks of (block_rows, block_columns); the last ones may be shorter.
// Units are in row-major order of (batch, blocks of rows, blocks of columns).
struct Layout {
  size_t batch, rows, columns, block_rows, block_columns;
  size_t numel() const { return batch * rows * columns; }
};

// One of several ways of quantizing a block: the numbers, what the largest magnitude becomes, and the share of that scale.
struct Candidate {
  const Codec* codec;
  float top, share;
};

enum Noise : int32_t { NO_NOISE = 0, PHILOX = 1, WORDS = 2 };

struct NoiseSource {
  int32_t kind;
  uint32_t key0, key1;
  const int64_t* words;
};

struct Job {
  const Codec* codec;        // null: only scales are wanted; of candidates each has its own
  const Codec* scale_codec;  // null: scales stay float32
  const float* scale_unit;   // what stored scales are multiples of; or null
  const void* x;
  int32_t x_type;
  Layout layout;
  ScaleRule rule;
  Units given;  // for the rule GIVEN
  void* out;    // numbers, or null
  int32_t out_type;
  void* codes;  // or null
  int32_t code_bytes;
  float *scale_out, *second_out;  // as the rule gives them, before they are stored; or null. The second: zero points or negative scales
  const Candidate* candidates;    // the rule is ABSMAX with top 1; the one with the least squared error is kept, of equals the first
  size_t candidate_count;         // at most 256; 0: none
  uint8_t* chosen;                // which candidate each block keeps; or null
  NoiseSource noise;
  int32_t threads;
};

void run(const Job& job);

// the sum of (y - x)^2 over n numbers, in the order of kernels/sums.h
double squared_error(const void* x, int32_t x_type, const float* y, size_t n, int32_t threads);

// false where a code is not one of the table
bool decode(const float* table, uint32_t count, const void* codes, int32_t code_bytes, const Layout& layout, const Units& units, void* out,
            int32_t out_type, int32_t threads);

// codes are uint8 up to 8 bits, int32 up to 16
void pack(const void* codes, uint8_t* out, int bits, size_t count, int32_t threads);
void unpack(const uint8_t* data, void* out, int bits, size_t count, int32_t threads);

}  // namespace lowbit
