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

enum Noise : int32_t { NO_NOISE = 0, PHILOX = 1, WORDS = 2 };

struct NoiseSource {
  int32_t kind;
  uint32_t key0, key1;
  const int64_t* words;
};

struct Job {
  const Codec* codec;        // null: only scales are wanted
  const Codec* scale_codec;  // null: scales stay float32
  const void* x;
  int32_t x_type;
  Layout layout;
  ScaleRule rule;
  Units given;  // for the rule GIVEN
  void* out;    // numbers, or null
  int32_t out_type;
  void* codes;  // or null
  int32_t code_bytes;
  float *scale_out, *zero_out;  // as the rule gives them, before they are stored; or null
  NoiseSource noise;
  int32_t threads;
};

void run(const Job& job);

// false where a code is not one of the table
bool decode(const float* table, uint32_t count, const void* codes, int32_t code_bytes, const Layout& layout, const Units& units, void* out,
            int32_t out_type, int32_t threads);

void pack(const uint8_t* codes, uint8_t* out, int bits, size_t count, int32_t threads);
void unpack(const uint8_t* data, uint8_t* out, int bits, size_t count, int32_t threads);

}  // namespace lowbit
