// The kernels for CPUs with AVX512, VNNI and VBMI; the flags of this file are in CMakeLists.txt.
#include "../ops.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lowbit::avx512_vnni {
#include "../lanes.h"
#include "../kernels/convert.h"
#include "../kernels/codecs.h"
#include "../kernels/blocks.h"
#include "../kernels/scales.h"
#include "../kernels/hifloat4.h"
#include "../kernels/philox.h"
#include "../kernels/pack.h"
#include "../kernels/decode.h"
#include "../kernels/tiles.h"
#include "../kernels/linear_digits.h"
#include "../kernels/linear.h"
#include "../kernels/linear_int8.h"
#include "../kernels/decoder.h"

extern const Target target;
const Target target = {
    "avx512_vnni",
#define LOWBIT_FIELD(name, result, arguments) name,
    LOWBIT_OPS(LOWBIT_FIELD)
#undef LOWBIT_FIELD
};
}  // namespace lowbit::avx512_vnni
