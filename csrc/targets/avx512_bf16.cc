// The kernels for CPUs with AVX512, VNNI, VBMI and products of bfloat16; the flags of this file are in CMakeLists.txt.
#include "../ops.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lowbit::avx512_bf16 {
#include "../lanes.h"
#include "../kernels/all.h"
#include "../kernels/gemm_bf16.h"

static const Gemm* gemm(const PackedLinear& w, Arithmetic arithmetic) {
  if (arithmetic == INT8_SUMS) return w.whole_known ? &int8_gemm::GEMM : nullptr;
  return arithmetic == FLOAT32_SUMS ? &float_gemm::GEMM : &bf16_gemm::GEMM;
}

extern const Target target;
const Target target = {
    "avx512_bf16",
#define LOWBIT_FIELD(name, result, arguments) name,
    LOWBIT_OPS(LOWBIT_FIELD)
#undef LOWBIT_FIELD
};
}  // namespace lowbit::avx512_bf16
