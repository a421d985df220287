// Linear layers on packed codes: y = x W^T + bias. Made by kernels/cpu/qlinear.py, called from there and from plans in C++.
#pragma once
#include "packed_linear.h"

namespace lowbit {

// The input of a linear as kernels read it. It serves all linears that agree in columns, group, bits, in whether there are offsets, in what is said of
// whole numbers, and, where bits < 3, in the table.
size_t input_nbytes(const PackedLinear& w, size_t m);
void prepare_input(const PackedLinear& w, const float* x, size_t m, void* input);  // input: input_nbytes, 64-byte aligned; m <= MOST_ROWS
// Rows 16 * first to 16 * last - 1 of the output, on the calling thread; y[i * stride + row]. bias may be null.
void multiply_tiles(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, float* y, size_t stride, const float* bias);

// All of it on `threads` threads, any m. No result depends on the number of threads.
void qlinear(const PackedLinear& w, const float* x, size_t m, float* y, const float* bias, int threads);

// The same with every row of x in int8 (largest magnitude / 127, ties to even): exact sums of integers in each group, then for each group
// in turn a += sum * (scale * unit), a += offset * (sum of x); y = a * (scale of the row) + bias. Needs whole_known.
size_t int8_input_nbytes(const PackedLinear& w, size_t m);
void prepare_int8_input(const PackedLinear& w, const float* x, size_t m, void* input);
void multiply_int8_tiles(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, float* y, size_t stride, const float* bias);
void qlinear_int8(const PackedLinear& w, const float* x, size_t m, float* y, const float* bias, int threads);

// Reads memory as fast as one thread can; for measuring. The sum keeps the compiler from leaving it out.
uint32_t read_all(const void* data, size_t nbytes);

}  // namespace lowbit
