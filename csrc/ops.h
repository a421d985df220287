// What a CPU target provides: plain functions on short runs of numbers that sit in the first-level cache.
#pragma once
#include <cstddef>
#include <cstdint>

#include "gemm.h"
#include "packed_linear.h"

namespace lowbit {

// How numbers in units of a format become numbers or codes of the format. Everything is derived from the table in Python.
enum Method : int32_t {
  FIXED = 0,  // a run of integers times a power of two: rounded by adding and subtracting `magic`
  FLOAT = 1,  // a sign-symmetric minifloat: the same with a magic number per exponent
  WIDE = 2,   // a minifloat with the exponents of float32 (bfloat16): rounded in the bits
  LOOKUP = 3, // any table of at most 256 numbers: top bits pick a bucket with at most one cut point
  SEARCH = 4, // the same where several cut points share a bucket: binary search from there on
  SHORT = 5,  // any table of at most 16 numbers: binary search in registers
};

struct Codec {
  int32_t value_method, code_method;
  int32_t stochastic;          // up with the probability of the share of the gap, else by the cut points
  int32_t keep_negative_zero;  // a negative number that rounds to zero keeps its sign
  uint32_t nan_value[2], nan_code[2];  // by sign; values as bits
  // FIXED, FLOAT, WIDE
  float low, high;        // numbers beyond are taken as these first
  float magic;            // FIXED: 1.5 * 2**23 units
  float unit;             // FIXED: the step; FLOAT: the step of subnormals
  uint32_t least;         // FLOAT: the exponent field of the smallest normal number, in place
  uint32_t lift;          // FLOAT: what is added to an exponent field to get that of the magic number
  int32_t drop;           // FLOAT, WIDE: bits of the float32 mantissa that are rounded away
  int32_t overflows;      // magnitudes from `overflow_from` on become `overflow_value` (special)
  uint32_t overflow_from, overflow_value[2], overflow_code[2];
  int32_t code_sign;      // FLOAT, WIDE: the bit of negative codes; FIXED: the mask of a code
  // tables: an index is the rank of a number among those of the format
  const uint32_t* buckets;  // LOOKUP: index below | index from the cut on << 8 | low bits of the cut << 16; SEARCH: the lowest index
  uint32_t bucket_low, bucket_high, bucket_shift, bucket_count;  // of magnitudes; negative ones come second
  const float* cuts;        // SEARCH, SHORT: cut points, NaN after the last
  uint32_t search_step;     // SEARCH: half of the first power of two above the most cut points of a bucket
  uint32_t zero_rank, negative_zero_code;
  int32_t negative_zero;    // whether negative_zero_code exists and differs
  uint32_t zero_code;
  const uint32_t* rank_value;  // 256 floats as bits: the number of a rank as the format decodes it
  const uint16_t *rank_upper, *rank_lower;  // 256 values in halves; the lower ones null where all are zero
  const float* rank_number;    // 256 floats: the same with the numbers that would follow the ends (for shares)
  const uint32_t* rank_code;   // 256 codes
  uint32_t last_rank;
};

// The unit of a block: `scale` and what else moves its numbers; absent pointers are null. All float32.
struct Units {
  const float *scale, *zero, *offset, *negative, *inverse;
};

enum Rule : int32_t { NO_RULE = 0, GIVEN = 1, ABSMAX = 2, POWER_OF_TWO = 3, MINMAX = 4, HIFLOAT4 = 5, SIGN_SPLIT = 6, ABSMEAN = 7, EXTREMES = 8 };

struct ScaleRule {
  int32_t rule;
  float top;             // ABSMAX: what the largest magnitude is mapped to; HIFLOAT4: 1/7 in bfloat16
  int32_t top_exponent;  // POWER_OF_TWO
  uint32_t threshold;    // POWER_OF_TWO: mantissas from here on take the next power
  float steps, low, high;  // MINMAX: levels - 1, the smallest and largest integer; SIGN_SPLIT: low and high, the ends of the format
  double factor;           // ABSMEAN
};

enum Type : int32_t { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

constexpr size_t PIECE = 1024;  // numbers that are summed at a time, see kernels/sums.h

// name, result, arguments
#define LOWBIT_OPS(X)                                                                                                       \
  X(read, void, (const void* from, int32_t type, size_t at, float* to, size_t n))                                           \
  X(write, void, (const float* from, void* to, int32_t type, size_t at, size_t n, bool streamed))                           \
  /* numbers that lie one after another, blocks of `width`; `units` start at the first block */                             \
  X(values, void, (const Codec& c, const Units& u, const float* x, float* out, size_t n, size_t width, const uint32_t* noise)) \
  X(codes8, void, (const Codec& c, const Units& u, const float* x, uint8_t* out, size_t n, size_t width, const uint32_t* noise)) \
  X(codes32, void, (const Codec& c, const Units& u, const float* x, int32_t* out, size_t n, size_t width, const uint32_t* noise)) \
  X(decode8, void, (const float* table, const Units& u, const uint8_t* codes, float* out, size_t n, size_t width))          \
  X(decode32, bool, (const float* table, uint32_t count, const Units& u, const int32_t* codes, float* out, size_t n, size_t width)) \
  /* `most` holds bits of magnitudes, `low` and `high` are null or the range; results are merged with what is there */      \
  X(measure, void, (const float* x, size_t n, size_t width, uint32_t* most, float* low, float* high))                       \
  /* `second` receives zero points (MINMAX), scales of negative numbers (SIGN_SPLIT) or the smallest numbers (EXTREMES) */  \
  X(scales, void, (const ScaleRule& r, const uint32_t* most, const float* low, const float* high, float* scale, float* second, size_t n)) \
  /* of blocks of `width` <= PIECE numbers the sums of |x|, or with y those of (y - x)^2 */                                 \
  X(sums, void, (const float* x, const float* y, size_t n, size_t width, double* out))                                      \
  X(fold, double, (double* v, size_t n))                                                                                    \
  X(hifloat4, void, (const Codec& element, const Codec& scale, float seventh, const float* x, float* out, size_t n))              \
  X(philox, void, (uint32_t key0, uint32_t key1, uint64_t block, uint32_t* out, size_t blocks))                             \
  /* of a decoder, see kernels/decoder.h */                                                                                \
  X(rms_norm, void, (const float* x, const float* weight, float eps, float* out, size_t n))                                 \
  X(rotate, void, (float* x, const float* cosine, const float* sine, size_t half))                                          \
  X(swiglu, void, (const float* gate, const float* up, float* out, size_t n))                                               \
  X(accumulate, void, (float* x, const float* y, size_t n))                                                                 \
  X(attend, void, (const float* q, size_t queries, const float* k, const float* v, size_t n, size_t dim, float scale, float* scores, float* out)) \
  X(dense_rows, void, (const float* W, const float* x, size_t in, size_t first, size_t last, float* y))                     \
  /* codes are uint8 up to 8 bits, int32 up to 16 */                                                                        \
  X(pack, void, (const void* codes, uint8_t* out, int bits, size_t count))                                                  \
  X(unpack, void, (const uint8_t* data, void* out, int bits, size_t count))                                                 \
  /* linear layers; m is MOST_ROWS at most */                                                                \
  X(linear_input_nbytes, size_t, (const PackedLinear& w, size_t m))                                                         \
  X(linear_input, void, (const PackedLinear& w, const float* x, size_t m, void* input))                                     \
  X(linear_tiles, void, (const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, float* y, size_t stride, const float* bias)) \
  X(linear8_input_nbytes, size_t, (const PackedLinear& w, size_t m))                                                        \
  X(linear8_input, void, (const PackedLinear& w, const float* x, size_t m, void* input))                                    \
  X(linear8_tiles, void, (const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, float* y, size_t stride, const float* bias)) \
  /* with many rows, see gemm.h; null where this target has no kernel for the weight */                                     \
  X(gemm, const Gemm*, (const PackedLinear& w, Arithmetic arithmetic))                                                      \
  X(read_memory, uint32_t, (const void* data, size_t nbytes))

struct Target {
  const char* name;
#define LOWBIT_FIELD(name, result, arguments) result(*name) arguments;
  LOWBIT_OPS(LOWBIT_FIELD)
#undef LOWBIT_FIELD
};

}  // namespace lowbit
