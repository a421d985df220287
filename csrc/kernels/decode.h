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

// Codes of up to 6 bits. Tables of up to 4 bits repeat to 16 numbers, so what lies above a code does not matter.
template <int BITS>
struct Lookup {
  static constexpr int WORDS = (int)words_of(BITS), CODES = (int)codes_of(BITS);
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
  struct Words {
    const Lookup& of;
    const U* words;
    LB_INLINE_MEMBER F at(int i) const { return of.number(code_at<BITS>(words, i)); }
  };
  LB_INLINE_MEMBER Words open(const U* words) const { return {*this, words}; }
};

// Codes of 8 bits that are integers, two's complement or not.
template <bool SIGNED>
struct Integers {
  static constexpr int WORDS = 1, CODES = 4;
  LB_INLINE_MEMBER explicit Integers(const PackedLinear&) {}
  struct Words {
    U word;
    LB_INLINE_MEMBER F at(int i) const {
      const I code = SIGNED ? (I)(i == 3 ? word : word << (24 - 8 * i)) >> 24 : (I)(i == 3 ? word >> 24 : (i ? word >> 8 * i : word) & 0xff);
      return __builtin_convertvector(code, F);
    }
  };
  LB_INLINE_MEMBER Words open(const U* words) const { return {words[0]}; }
};

// Any table of 256 numbers.
struct Gathered {
  static constexpr int WORDS = 1, CODES = 4;
  const uint32_t* numbers;
  LB_INLINE_MEMBER explicit Gathered(const PackedLinear& w) : numbers((const uint32_t*)w.table) {}
  struct Words {
    const uint32_t* numbers;
    U word;
    LB_INLINE_MEMBER F at(int i) const { return float_of(gather(numbers, i == 3 ? word >> 24 : (i ? word >> 8 * i : word) & 0xff)); }
  };
  LB_INLINE_MEMBER Words open(const U* words) const { return {numbers, words[0]}; }
};

#if defined(__AVX512VBMI__)
// 128 bfloat16 numbers and a sign: both bytes of 64 numbers by one look-up each.
struct Symmetric {
  static constexpr int WORDS = 1, CODES = 4;
  __m512i low[2], high[2];
  LB_INLINE_MEMBER explicit Symmetric(const PackedLinear& w) {
    for (int k = 0; k < 2; k++) low[k] = _mm512_loadu_si512(w.magnitudes + 64 * k), high[k] = _mm512_loadu_si512(w.magnitudes + 128 + 64 * k);
  }
  struct Words {
    U even, odd;  // numbers 0 and 2, 1 and 3 as halves of the lanes
    LB_INLINE_MEMBER F at(int i) const {
      const U pair = i & 1 ? odd : even;
      return float_of(i & 2 ? pair & 0xffff0000u : pair << 16);
    }
  };
  LB_INLINE_MEMBER Words open(const U* words) const {
    const __m512i k = (__m512i)words[0], sign = _mm512_set1_epi8((char)0x80), uppers = _mm512_set1_epi16((short)0xff00);
    const __m512i l = _mm512_permutex2var_epi8(low[0], k, low[1]), magnitude = _mm512_permutex2var_epi8(high[0], k, high[1]);
    const __m512i h = _mm512_ternarylogic_epi32(magnitude, k, sign, 0xf8);                                  // magnitude | (k & sign)
    return {(U)_mm512_ternarylogic_epi32(uppers, _mm512_slli_epi16(h, 8), l, 0xca), (U)_mm512_ternarylogic_epi32(uppers, h, _mm512_srli_epi16(l, 8), 0xca)};
  }
};
#else
using Symmetric = Gathered;
#endif

// What is stored once a block, 16 rows of `count` groups, as float32.
LB_INLINE void read_blocks(const PerBlock& b, size_t tile, size_t groups, size_t first, size_t count, float* to) {
  const size_t at = (tile * groups + first) * TILE_ROWS;
  for (size_t i = 0; i < count * TILE_ROWS; i += LANES) {
    F x;
    switch (b.store) {
      case STORE_FLOAT32:
        x = load((const float*)b.data + at + i);
        break;
      case STORE_BFLOAT16:
        x = float_of(__builtin_convertvector(*(const HLoose*)((const uint16_t*)b.data + at + i), U) << 16);
        break;
      case STORE_FLOAT16:
        x = wide_from_float16(__builtin_convertvector(*(const HLoose*)((const uint16_t*)b.data + at + i), U));
        break;
      default:
        x = float_of(__builtin_convertvector(*(const BLoose*)((const uint8_t*)b.data + at + i), U) << b.shift) * load(b.factor + tile * TILE_ROWS + i % TILE_ROWS);
    }
    store(to + i, x);
  }
}
