// Products with many rows of x: y = x W^T + bias, a panel of rows of W decoded once for all rows of x. Only what targets need.
#pragma once
#include "packed_linear.h"

namespace lowbit {

// What is multiplied and added: float32; int8 rows of x with integers (see qlinear_int8); bfloat16 products in float32 sums.
enum Arithmetic : int32_t { FLOAT32_SUMS = 0, INT8_SUMS = 1, BFLOAT16_SUMS = 2 };

// One way of multiplying. All pointers but y and bias are multiples of 64 bytes.
struct Gemm {
  const char* name;      // as `lowbit kernels` shows it
  size_t tiles;          // of 16 rows of W in a panel
  size_t panels;         // that are multiplied together, at most
  size_t rows;           // of x that are prepared at a time
  size_t least;          // rows of x from which on it is quicker than kernels/linear.h and kernels/linear_int8.h
  size_t (*input_nbytes)(const PackedLinear& w, size_t m);
  size_t (*room_nbytes)(const PackedLinear& w, size_t m);  // of a thread
  // rows first to last - 1 of x, in float32, bfloat16 or float16; first is a multiple of `rows`
  void (*prepare)(const PackedLinear& w, const void* x, int32_t type, size_t m, size_t first, size_t last, void* input, void* room);
  // tiles first to last - 1, which are `panels` panels at most, with all m rows; rows of y are `stride` numbers apart
  void (*multiply)(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, void* room, void* y, int32_t type,
                   size_t stride, const float* bias);
};

}  // namespace lowbit
