// The kernels for CPUs with AMX; the flags of this file are in CMakeLists.txt.
#include "../ops.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lowbit::amx {
#include "../lanes.h"
#include "../kernels/all.h"
#include "../kernels/gemm_bf16.h"
#include "../kernels/amx_tiles.h"
#include "../kernels/gemm_amx.h"

static const Gemm* gemm(const PackedLinear& w, Arithmetic arithmetic) {
  PackedLinear shifted;
  if (arithmetic == INT8_SUMS) return !w.whole_known ? nullptr : amx_int8::as_signed(w, &shifted) ? &amx_int8::GEMM : &int8_gemm::GEMM;
  return arithmetic == FLOAT32_SUMS ? &float_gemm::GEMM : &amx_bf16::GEMM;
}

extern const Target target;
const Target target = {
    "amx",
#define LOWBIT_FIELD(name, result, arguments) name,
    LOWBIT_OPS(LOWBIT_FIELD)
#undef LOWBIT_FIELD
};
}  // namespace lowbit::amx
