// Lanes of 32 bits, as many as a register of the target holds, written with the vector types of GCC and Clang.
// Included inside the namespace of a target, once per target; only what these types cannot say is an intrinsic.

#define LB_INLINE static inline __attribute__((always_inline))
#define LB_INLINE_MEMBER inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr uint32_t SIGN = 0x80000000u, MAGNITUDE = 0x7fffffffu, INFINITE = 0x7f800000u, QUIET_NAN = 0x7fc00000u;

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef float FLoose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t ULoose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));
typedef uint16_t HLoose __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint8_t B __attribute__((vector_size(LANES)));
typedef uint8_t BLoose __attribute__((vector_size(LANES), aligned(1), may_alias));

LB_INLINE U bits_of(F x) { return (U)x; }
LB_INLINE F float_of(U x) { return (F)x; }
LB_INLINE F all(float x) { return x - F{}; }  // a sum with zero would lose -0
LB_INLINE U all(uint32_t x) { return U{} + x; }
LB_INLINE F load(const float* p) { return *(const FLoose*)p; }
LB_INLINE U load(const uint32_t* p) { return *(const ULoose*)p; }
LB_INLINE void store(float* p, F x) { *(FLoose*)p = x; }
LB_INLINE void store(uint32_t* p, U x) { *(ULoose*)p = x; }
LB_INLINE F smaller(F a, F b) { return a < b ? a : b; }  // the second where one is NaN
LB_INLINE F larger(F a, F b) { return a > b ? a : b; }
LB_INLINE U select(I mask, U a, U b) { return mask ? a : b; }
LB_INLINE F select(I mask, F a, F b) { return float_of(mask ? bits_of(a) : bits_of(b)); }
// magnitudes stay below 2**31, where signed comparison is right and cheaper
LB_INLINE U smaller(U a, U b) { return (U)((I)a < (I)b ? (I)a : (I)b); }
LB_INLINE U larger(U a, U b) { return (U)((I)a > (I)b ? (I)a : (I)b); }
LB_INLINE float one_float(uint32_t x) { float y; __builtin_memcpy(&y, &x, 4); return y; }
LB_INLINE uint32_t one_bits(float x) { uint32_t y; __builtin_memcpy(&y, &x, 4); return y; }

// On Zen 5 sixteen single loads with inserts took 1.2 times as long as the gather instruction.
LB_INLINE U gather(const uint32_t* table, U index) {
#if defined(__AVX512F__)
  return (U)_mm512_i32gather_epi32((__m512i)index, table, 4);
#elif defined(__AVX2__)
  return (U)_mm256_i32gather_epi32((const int*)table, (__m256i)index, 4);
#else
  U out = {};
  for (int i = 0; i < LANES; i++) out[i] = table[index[i]];
  return out;
#endif
}

// numbers 0 to 15 of a table
LB_INLINE U pick16(const uint32_t* table, U index) {
#if defined(__AVX512F__)
  return (U)_mm512_permutexvar_epi32((__m512i)index, (__m512i)load(table));
#elif defined(__AVX2__)
  const __m256i low = _mm256_permutevar8x32_epi32((__m256i)load(table), (__m256i)index);
  const __m256i high = _mm256_permutevar8x32_epi32((__m256i)load(table + 8), (__m256i)index);
  return select((I)index > 7, (U)high, (U)low);
#else
  return gather(table, index);
#endif
}

#if defined(__AVX512BW__)
constexpr bool PICKS_256 = true;  // quicker than a gather
#else
constexpr bool PICKS_256 = false;
#endif

// words 0 to 255 of a table; what is in the upper halves of the lanes is of no use
LB_INLINE U pick256(const uint16_t* table, U index) {
#if defined(__AVX512BW__)
  const __m512i k = (__m512i)index;
  __m512i part[4];
  for (int i = 0; i < 4; i++)
    part[i] = _mm512_permutex2var_epi16(_mm512_loadu_si512(table + 64 * i), k, _mm512_loadu_si512(table + 64 * i + 32));
  const __mmask16 bit6 = _mm512_test_epi32_mask(k, _mm512_set1_epi32(64)), bit7 = _mm512_test_epi32_mask(k, _mm512_set1_epi32(128));
  const __m512i low = _mm512_mask_mov_epi32(part[0], bit6, part[1]), high = _mm512_mask_mov_epi32(part[2], bit6, part[3]);
  return (U)_mm512_mask_mov_epi32(low, bit7, high);
#else
  return index + table[0];  // not called
#endif
}

// the upper halves of the 64-bit products of all lanes with a constant
LB_INLINE U upper_product(U x, uint32_t constant) {
#if defined(__AVX512F__)
  const __m512i k = _mm512_set1_epi32((int)constant);
  const __m512i even = _mm512_mul_epu32((__m512i)x, k), odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)x, 32), k);
  return (U)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
#elif defined(__AVX2__)
  const __m256i k = _mm256_set1_epi32((int)constant);
  const __m256i even = _mm256_mul_epu32((__m256i)x, k), odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)x, 32), k);
  return (U)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#else
  U out = {};
  for (int i = 0; i < LANES; i++) out[i] = (uint32_t)((uint64_t)x[i] * constant >> 32);
  return out;
#endif
}

LB_INLINE uint32_t largest_lane(U x) {
#if defined(__AVX512F__)
  return (uint32_t)_mm512_reduce_max_epi32((__m512i)x);
#else
  uint32_t most = 0;
  for (int i = 0; i < LANES; i++) most = x[i] > most ? x[i] : most;
  return most;
#endif
}

// lanes of 16 bits to p, a multiple of their size, without filling the caches
LB_INLINE void stream(uint16_t* p, H x) {
#if defined(__AVX512F__)
  _mm256_stream_si256((__m256i*)p, (__m256i)x);
#elif defined(__AVX__)
  _mm_stream_si128((__m128i*)p, (__m128i)x);
#elif defined(__SSE2__) && defined(__x86_64__)
  long long word;
  __builtin_memcpy(&word, &x, 8);
  _mm_stream_si64((long long*)p, word);
#else
  *(HLoose*)p = x;
#endif
}

// n floats to p without filling the caches; p is a multiple of 64 bytes, n of LANES
LB_INLINE void stream(float* p, const float* from, size_t n) {
#if defined(__AVX512F__)
  for (size_t i = 0; i < n; i += 16) _mm512_stream_ps(p + i, _mm512_loadu_ps(from + i));
#elif defined(__AVX__)
  for (size_t i = 0; i < n; i += 8) _mm256_stream_ps(p + i, _mm256_loadu_ps(from + i));
#elif defined(__SSE2__)
  for (size_t i = 0; i < n; i += 4) _mm_stream_ps(p + i, _mm_loadu_ps(from + i));
#else
  __builtin_memcpy(p, from, 4 * n);
#endif
}
