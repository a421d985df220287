// The kernels for CPUs with AVX2; the flags of this file are in CMakeLists.txt.
#include "../ops.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lowbit::avx2 {
#include "../lanes.h"
#include "../kernels/all.h"

static const Gemm* gemm(const PackedLinear& w, Arithmetic arithmetic) {
  if (arithmetic == INT8_SUMS) return w.whole_known ? &int8_gemm::GEMM : nullptr;
  return arithmetic == FLOAT32_SUMS ? &float_gemm::GEMM : nullptr;
}

extern const Target target;
const Target target = {
    "avx2",
#define LOWBIT_FIELD(name, result, arguments) name,
    LOWBIT_OPS(LOWBIT_FIELD)
#undef LOWBIT_FIELD
};
}  // namespace lowbit::avx2
