// Codes of linear layers to numbers, in lanes: lane l holds row l of a tile.

LB_INLINE F fused(F a, F b, F c) {  // a * b + c, rounded once where the target can
#if defined(__AVX512F__)
  return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

LB_INLINE F spread(const float* x) {  // one number in all lanes
#if defined(__AVX512F__)
  return (F)_mm512_set1_ps(*x);
#elif defined(__AVX__)
  return (F)_mm256_broadcast_ss(x);
#else
  return all(*x);
#endif
}

// the bits of code i of a row and what lies above them
template <int BITS>
LB_INLINE U code_at(const U* words, int i) {
  const int at = i * BITS, word = at / 32, shift = at % 32;
  U u = shift ? words[word] >> shift : words[word];
  if (shift + BITS > 32) u |= words[word + 1] << (32 - shift);
  return u;
}

// How a kernel loads the words of a unit; a decoder that reads them otherwise says so.
template <int COUNT>
struct WholeWords {
  static constexpr int WORDS = COUNT, LOADS = COUNT;
  static constexpr bool SUMS = false, BEYOND = false;
  static LB_INLINE_MEMBER U word(const uint32_t* codes, int k) { return load(codes + k * TILE_ROWS); }
};

// Codes of up to 6 bits. Tables of up to 4 bits repeat to 16 numbers, so what lies above a code does not matter.
template <int BITS>
struct Lookup : WholeWords<(int)words_of(BITS)> {
  static constexpr int CODES = (int)codes_of(BITS);
#if defined(__AVX512F__)
  static constexpr int COUNT = BITS <= 4 ? 1 : BITS == 5 ? 2 : 4;
  __m512 table[COUNT];
  LB_INLINE_MEMBER explicit Lookup(const PackedLinear& w) {
    for (int k = 0; k < COUNT; k++) table[k] = _mm512_loadu_ps(w.table + 16 * k);
  }
  LB_INLINE_MEMBER F number(U u) const {
    if constexpr (COUNT == 1) return (F)_mm512_permutexvar_ps((__m512i)u, table[0]);
    if constexpr (COUNT == 2) return (F)_mm512_permutex2var_ps(table[0], (__m512i)u, table[1]);
    if constexpr (COUNT == 4)
      return (F)_mm512_mask_blend_ps(_mm512_test_epi32_mask((__m512i)u, _mm512_set1_epi32(32)),
                                     _mm512_permutex2var_ps(table[0], (__m512i)u, table[1]),
                                     _mm512_permutex2var_ps(table[2], (__m512i)u, table[3]));
  }
#elif defined(__AVX2__)
  const uint32_t* numbers;
  __m256 low, high;
  LB_INLINE_MEMBER explicit Lookup(const PackedLinear& w)
      : numbers((const uint32_t*)w.table), low(_mm256_loadu_ps(w.table)), high(_mm256_loadu_ps(w.table + 8)) {}
  LB_INLINE_MEMBER F number(U u) const {
    if (BITS > 4) return float_of(gather(numbers, u & ((1u << BITS) - 1)));
    const __m256i k = (__m256i)u;
    const __m256 a = _mm256_permutevar8x32_ps(low, k);
    if (BITS <= 3) return (F)a;  // eight numbers
    return (F)_mm256_blendv_ps(a, _mm256_permutevar8x32_ps(high, k), _mm256_castsi256_ps(_mm256_slli_epi32(k, 28)));
  }
#else
  const uint32_t* numbers;
  LB_INLINE_MEMBER explicit Lookup(const PackedLinear& w) : numbers((const uint32_t*)w.table) {}
  LB_INLINE_MEMBER F number(U u) const { return float_of(gather(numbers, u & ((1u << BITS) - 1))); }
#endif
  LB_INLINE_MEMBER F at(const U* words, int i) const { return number(code_at<BITS>(words, i)); }
};

#if defined(__AVX512F__)
// Codes of 4 bits. Shifts are what a core does least of at a time, so half of them are loads from one, two and three bytes further on. The
// last word of the codes must not be read so.
struct Nibbles : WholeWords<1> {
  static constexpr int LOADS = 4, CODES = 8;
  static constexpr bool BEYOND = true;
  using Within = Lookup<4>;
  Lookup<4> table;
  LB_INLINE_MEMBER explicit Nibbles(const PackedLinear& w) : table(w) {}
  static LB_INLINE_MEMBER U word(const uint32_t* codes, int k) { return load((const uint32_t*)((const char*)codes + k)); }
  LB_INLINE_MEMBER F at(const U* words, int i) const { return table.number(i & 1 ? words[i / 2] >> 4 : words[i / 2]); }
};

// Four bits, which are several codes, pick one of 16 sums.
struct Together : WholeWords<1> {
  static constexpr int CODES = 8;
  static constexpr bool SUMS = true;
  LB_INLINE_MEMBER explicit Together(const PackedLinear&) {}
  LB_INLINE_MEMBER F at(const U* words, int i, const float* sums) const {
    return (F)_mm512_permutexvar_ps((__m512i)code_at<4>(words, i), _mm512_loadu_ps(sums));
  }
};
#endif

// Codes of 8 bits that are integers, two's complement or not.
template <bool SIGNED>
struct Integers : WholeWords<1> {
  static constexpr int CODES = 4;
  LB_INLINE_MEMBER explicit Integers(const PackedLinear&) {}
  LB_INLINE_MEMBER F at(const U* words, int i) const {
    const U word = words[0];
    const I code = SIGNED ? (I)(i == 3 ? word : word << (24 - 8 * i)) >> 24 : (I)(i == 3 ? word >> 24 : (i ? word >> 8 * i : word) & 0xff);
    return __builtin_convertvector(code, F);
  }
};

// Any table of 256 numbers.
struct Gathered : WholeWords<1> {
  static constexpr int CODES = 4;
  const uint32_t* numbers;
  LB_INLINE_MEMBER explicit Gathered(const PackedLinear& w) : numbers((const uint32_t*)w.table) {}
  LB_INLINE_MEMBER F at(const U* words, int i) const {
    return float_of(gather(numbers, i == 3 ? words[0] >> 24 : (i ? words[0] >> 8 * i : words[0]) & 0xff));
  }
};

#if defined(__AVX512VBMI__)
// 128 bfloat16 numbers and a sign: both bytes of 64 numbers by one look-up each.
struct Symmetric : WholeWords<1> {
  static constexpr int CODES = 4;
  __m512i low[2], high[2];
  LB_INLINE_MEMBER explicit Symmetric(const PackedLinear& w) {
    for (int k = 0; k < 2; k++) low[k] = _mm512_loadu_si512(w.magnitudes + 64 * k), high[k] = _mm512_loadu_si512(w.magnitudes + 128 + 64 * k);
  }
  // the bytes are looked up once for the four codes of a word, which the compiler sees
  LB_INLINE_MEMBER F at(const U* words, int i) const {
    const __m512i k = (__m512i)words[0], sign = _mm512_set1_epi8((char)0x80), uppers = _mm512_set1_epi16((short)0xff00);
    const __m512i lower = _mm512_permutex2var_epi8(low[0], k, low[1]), magnitude = _mm512_permutex2var_epi8(high[0], k, high[1]);
    const __m512i upper = _mm512_ternarylogic_epi32(magnitude, k, sign, 0xf8);                               // magnitude | (k & sign)
    const U pair = (U)(i & 1 ? _mm512_ternarylogic_epi32(uppers, upper, _mm512_srli_epi16(lower, 8), 0xca)   // codes 1 and 3
                             : _mm512_ternarylogic_epi32(uppers, _mm512_slli_epi16(upper, 8), lower, 0xca)); // codes 0 and 2
    return float_of(i & 2 ? pair & 0xffff0000u : pair << 16);
  }
};
#else
using Symmetric = Gathered;
#endif

LB_INLINE U widened(const uint8_t* p) {
#if defined(__AVX512F__)
  return (U)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
  return (U)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
  return __builtin_convertvector(*(const BLoose*)p, U);
#endif
}

LB_INLINE U widened(const uint16_t* p) {
#if defined(__AVX512F__)
  return (U)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  return (U)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
#else
  return __builtin_convertvector(*(const HLoose*)p, U);
#endif
}

// What is stored once a block, `count` groups of 16 rows, as float32, `apart` numbers from one group to the next. Of the next call's, for which
// tiles go `step` at a time, memory is asked.
static void read_blocks(const PerBlock& b, size_t tile, size_t groups, size_t first, size_t count, size_t step, float* to, size_t apart = TILE_ROWS) {
  const size_t at = (tile * groups + first) * TILE_ROWS, n = count * TILE_ROWS;
  const size_t size = b.store == STORE_FLOAT32 ? 4 : b.store == STORE_BYTE ? 1 : 2;
  const size_t next = at + n + (first + count < groups ? 0 : (step - 1) * groups * TILE_ROWS);
  for (size_t i = 0; i < n * size; i += 64) __builtin_prefetch((const char*)b.data + next * size + i);
  const auto each = [&](const auto& number) {
    for (size_t v = 0; v < TILE_ROWS; v += LANES)
      for (size_t i = 0; i < count; i++) store(to + i * apart + v, number(at + i * TILE_ROWS + v));
  };
  switch (b.store) {
    case STORE_FLOAT32: return each([&](size_t i) { return load((const float*)b.data + i); });
    case STORE_BFLOAT16: return each([&](size_t i) { return wide_from_bfloat16(widened((const uint16_t*)b.data + i)); });
    case STORE_FLOAT16: return each([&](size_t i) { return wide_from_float16(widened((const uint16_t*)b.data + i)); });
    default:
      return each([&](size_t i) {
        const F factor = load(b.factor + tile * TILE_ROWS + i % TILE_ROWS);
        return float_of(widened((const uint8_t*)b.data + i) << b.shift) * factor;
      });
  }
}
