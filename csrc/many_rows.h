// Linear layers on packed codes with many rows of x, see gemm.h.
#pragma once
#include "gemm.h"

namespace lowbit {

// The kernel of the target in use for m rows of x, null where they are few or there is none for this weight. Where a target has no products of
// bfloat16 those of float32 serve.
const Gemm* many_rows_kernel(const PackedLinear& w, size_t m, Arithmetic arithmetic);

// y = x W^T + bias with x and y in `type`. No result depends on the number of threads.
void multiply_many_rows(const Gemm& gemm, const PackedLinear& w, const void* x, int32_t type, size_t rows, void* y, const float* bias, int threads);

}  // namespace lowbit
