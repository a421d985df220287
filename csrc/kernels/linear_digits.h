// y = x W^T + bias for few rows of float32 x, where the numbers of W are whole: number(code) = unit * (whole[code] - zero). Four bytes of
// codes at a time are multiplied with bytes, and the sums of a group are exact.
//
// Every group of a row of x becomes q = round(x / c) with c = 2**(e - 29), 2**e <= max |x| < 2**(e+1), so |q| <= 2**30, and q is written as
// four signed digits q = d3 2**24 + d2 2**16 + d1 2**8 + d0. Numbers of at least max / 64 are exact so, others are off by c / 2 at most, which is
// 2**-30 max. The four sums of whole numbers with digits are exact; they are added from the smallest to the largest in float32, which rounds
// numbers of at most 2**-6 max sum |w| three times and the result. So a group adds at most 2**-28 max |x| sum |w| to what float32 sums of
// the groups do. A row with NaN, Inf, or a group whose largest number is not in [2**-90, 2**91), is left to the other kernel, as are tables
// of very small or large numbers: nothing here leaves the range of float32.

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__) && defined(__AVX512VBMI2__)
constexpr int DIGITS = 4;
constexpr int WIDEST_DIGITS = 4;  // rows of x

// One row of codes of one bit is quicker as sums of four columns.
static bool takes_digits(const PackedLinear& w, int width) {
  return w.whole_known && w.unit >= 0x1p-30f && w.unit <= 0x1p30f && width <= WIDEST_DIGITS && w.bits + width > 2;
}

// Input of `width` rows: [stored columns / 4][width][digit] words of four digits, [group][width][digit] what sums start with,
// [group][width][digit] what the sums of a digit count, [group][width] sums of x.
struct DigitInput {
  int32_t *digits, *starts;
  float *counts, *sums;
  DigitInput(const PackedLinear& w, int width, const void* input)
      : digits((int32_t*)input), starts(digits + columns_of(w) * (size_t)width), counts((float*)starts + w.groups * (size_t)width * DIGITS),
        sums(counts + w.groups * (size_t)width * DIGITS) {}
};

static size_t digits_block(const PackedLinear& w, int width) { return (columns_of(w) + w.groups * (2 * DIGITS + 1)) * (size_t)width; }

LB_INLINE __mmask16 first_lanes(size_t n) { return (__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1); }

// Whether all rows can be written so.
static bool digits_input(const PackedLinear& w, const float* x, size_t rows, int width, void* input) {
  const DigitInput to(w, width, input);
  const size_t stored = w.units * codes_of(w.bits);
  const __m512i magnitude = _mm512_set1_epi32(MAGNITUDE);
  const __m512i carries = _mm512_set1_epi32(0x00808080), ones = _mm512_set1_epi8(1);
  const __m512i by_digit = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  for (size_t i = 0; i < (size_t)width; i++)
    for (size_t g = 0; g < w.groups; g++) {
      const size_t first = g * w.group, some = first + w.group < w.columns ? w.group : w.columns - first, count = i < rows ? some : 0;
      const float* from = x + i * w.columns + first;
      __m512i most = _mm512_setzero_si512();
      for (size_t k = 0; k < count; k += 16)
        most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_maskz_loadu_epi32(first_lanes(count - k), from + k), magnitude));
      const uint32_t largest = (uint32_t)_mm512_reduce_max_epi32(most), exponent = largest ? largest >> 23 : 127;
      if (exponent < 127 - 90 || exponent > 127 + 90) return false;
      const float times = one_float((127 + 29 + 127 - exponent) << 23), unit = one_float((exponent - 29) << 23);
      __m512i sums = _mm512_setzero_si512();
      int32_t* words = to.digits + (g * stored / 4 * width + i) * DIGITS;
      for (size_t k = 0; k < stored; k += 16) {
        const __m512 numbers = _mm512_maskz_loadu_ps(first_lanes(k < count ? count - k : 0), from + k);
        const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(numbers, _mm512_set1_ps(times)));
        const __m512i digits = _mm512_shuffle_epi8(_mm512_xor_si512(_mm512_add_epi32(q, carries), carries), by_digit);
        sums = _mm512_dpbusd_epi32(sums, ones, digits);
        int32_t of_four[4][DIGITS];
        _mm512_storeu_si512(of_four, digits);
        for (size_t j = 0; j < 4 && k + 4 * j < stored; j++, words += width * DIGITS) __builtin_memcpy(words, of_four[j], sizeof of_four[j]);
      }
      int32_t of_lanes[4][DIGITS];
      _mm512_storeu_si512(of_lanes, sums);
      const size_t at = g * width + i;
      for (int d = 0; d < DIGITS; d++) {
        to.starts[at * DIGITS + d] = -w.zero * (of_lanes[0][d] + of_lanes[1][d] + of_lanes[2][d] + of_lanes[3][d]);
        to.counts[at * DIGITS + d] = unit * w.unit * (float)(1 << 8 * d);
      }
      to.sums[at] = w.offset.data ? sum_of(from, count) : 0.0f;
    }
  return true;
}

// Codes to bytes of whole numbers, those of four columns in a lane.
template <int BITS>
struct Bytes {
  static constexpr int WORDS = (int)words_of(BITS), FOURS = (int)codes_of(BITS) / 4;
  __m512i table;
  LB_INLINE_MEMBER explicit Bytes(const PackedLinear& w) {
    table = BITS == 8 ? _mm512_set1_epi8((char)w.flip) : _mm512_loadu_si512(w.whole);  // repeats: what lies above a code does not matter
  }
  // from a bit on: eight bits from it on, from the next code on, ...
  static LB_INLINE_MEMBER __m512i windows(int shift) {
    uint64_t control = 0;
    for (int b = 0; b < 8; b++) control |= (uint64_t)((b < 4 ? shift + b * BITS : 32 + shift + (b - 4) * BITS) & 63) << 8 * b;
    return _mm512_set1_epi64((long long)control);
  }
  LB_INLINE_MEMBER __m512i at(const U* words, int j) const {
    if constexpr (BITS == 8) return _mm512_xor_si512((__m512i)words[0], table);
    const int bit = 4 * BITS * j, word = bit / 32, shift = bit % 32;
    const bool two = shift + 4 * BITS > 32;  // words
    const __m512i from = two ? _mm512_shrdv_epi32((__m512i)words[word], (__m512i)words[word + 1], _mm512_set1_epi32(shift)) : (__m512i)words[word];
    return _mm512_permutexvar_epi8(_mm512_multishift_epi64_epi8(windows(two ? 0 : shift), from), table);
  }
};

template <int BITS, int M, int R>
static void multiply_digits(const PackedLinear& w, const Bytes<BITS>& wholes, const DigitInput& input, int rows, size_t tile, float* y, size_t stride,
                            const float* bias) {
  constexpr int WORDS = Bytes<BITS>::WORDS, FOURS = Bytes<BITS>::FOURS;
  const size_t tile_words = w.groups * words_of_group(w);
  const uint32_t* codes[R];
  for (int r = 0; r < R; r++) codes[r] = w.codes + (tile + r) * tile_words;
  const int32_t *x = input.digits, *start = input.starts;
  const float *count_of = input.counts, *sum = input.sums;
  alignas(64) float scale[R][AT_A_TIME * TILE_ROWS], offset[R][AT_A_TIME * TILE_ROWS];
  F total[M][R] = {};
  Ahead ahead(w, R);
  for (size_t first = 0; first < w.groups; first += AT_A_TIME) {
    const size_t count = w.groups - first < AT_A_TIME ? w.groups - first : AT_A_TIME;
    for (int r = 0; r < R; r++) {
      read_blocks(w.scale, tile + r, w.groups, first, count, R, scale[r]);
      if (w.offset.data) read_blocks(w.offset, tile + r, w.groups, first, count, R, offset[r]);
    }
    for (size_t g = 0; g < count; g++, start += M * DIGITS, count_of += M * DIGITS, sum += M) {
      __m512i part[M][R][DIGITS];
#pragma GCC unroll 4
      for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
          for (int d = 0; d < DIGITS; d++) part[m][r][d] = _mm512_set1_epi32(start[m * DIGITS + d]);
      for (size_t u = 0; u < w.units; u++, x += FOURS * M * DIGITS) {
        U words[R][WORDS];
        ahead.pass(WORDS * TILE_ROWS);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
#pragma GCC unroll 5
          for (int k = 0; k < WORDS; k++) {
            words[r][k] = load(codes[r] + k * TILE_ROWS);
            ahead.ask(codes[r] + k * TILE_ROWS);
          }
          codes[r] += WORDS * TILE_ROWS;
        }
#pragma GCC unroll 8
        for (int j = 0; j < FOURS; j++) {
          __m512i bytes[R];
#pragma GCC unroll 4
          for (int r = 0; r < R; r++) bytes[r] = wholes.at(words[r], j);
#pragma GCC unroll 4
          for (int m = 0; m < M; m++)
#pragma GCC unroll 4
            for (int d = 0; d < DIGITS; d++) {
              const __m512i four = _mm512_set1_epi32(x[(j * M + m) * DIGITS + d]);
#pragma GCC unroll 4
              for (int r = 0; r < R; r++) part[m][r][d] = _mm512_dpbusd_epi32(part[m][r][d], bytes[r], four);
            }
        }
      }
#pragma GCC unroll 4
      for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
          __m512 all_digits = _mm512_mul_ps(_mm512_cvtepi32_ps(part[m][r][0]), _mm512_set1_ps(count_of[m * DIGITS]));
#pragma GCC unroll 4
          for (int d = 1; d < DIGITS; d++)
            all_digits = _mm512_fmadd_ps(_mm512_cvtepi32_ps(part[m][r][d]), _mm512_set1_ps(count_of[m * DIGITS + d]), all_digits);
          total[m][r] = fused((F)all_digits, load(scale[r] + g * TILE_ROWS), total[m][r]);
          if (w.offset.data) total[m][r] = fused(load(offset[r] + g * TILE_ROWS), all(sum[m]), total[m][r]);
        }
    }
  }
  for (int m = 0; m < rows; m++)
    for (int r = 0; r < R; r++) put(&total[m][r], w, tile + r, y + m * stride, bias);
}

template <int BITS, int M>
static void multiply_digits_range(const PackedLinear& w, const DigitInput& input, int rows, size_t first, size_t last, float* y, size_t stride,
                                  const float* bias) {
  constexpr int R = M == 1 ? 4 : M == 2 ? 2 : 1;  // so that all sums are in registers
  const Bytes<BITS> wholes(w);
  size_t tile = first;
  for (; tile + R <= last; tile += R) multiply_digits<BITS, M, R>(w, wholes, input, rows, tile, y, stride, bias);
  if constexpr (R > 1)
    for (; tile < last; tile++) multiply_digits<BITS, M, 1>(w, wholes, input, rows, tile, y, stride, bias);
}

template <int BITS>
static void multiply_digits_width(int width, const PackedLinear& w, const void* x, int rows, size_t first, size_t last, float* y, size_t stride,
                                  const float* bias) {
  const DigitInput input(w, width, x);
  if (width == 1) return multiply_digits_range<BITS, 1>(w, input, rows, first, last, y, stride, bias);
  if (width == 2) return multiply_digits_range<BITS, 2>(w, input, rows, first, last, y, stride, bias);
  multiply_digits_range<BITS, 4>(w, input, rows, first, last, y, stride, bias);
}

static void digits_tiles(int width, const PackedLinear& w, const void* x, int rows, size_t first, size_t last, float* y, size_t stride,
                         const float* bias) {
  switch (w.bits) {
    case 1: return multiply_digits_width<1>(width, w, x, rows, first, last, y, stride, bias);
    case 2: return multiply_digits_width<2>(width, w, x, rows, first, last, y, stride, bias);
    case 3: return multiply_digits_width<3>(width, w, x, rows, first, last, y, stride, bias);
    case 4: return multiply_digits_width<4>(width, w, x, rows, first, last, y, stride, bias);
    case 5: return multiply_digits_width<5>(width, w, x, rows, first, last, y, stride, bias);
    case 6: return multiply_digits_width<6>(width, w, x, rows, first, last, y, stride, bias);
    default: return multiply_digits_width<8>(width, w, x, rows, first, last, y, stride, bias);
  }
}
#else
static bool takes_digits(const PackedLinear&, int) { return false; }
static size_t digits_block(const PackedLinear&, int) { return 0; }
static bool digits_input(const PackedLinear&, const float*, size_t, int, void*) { return false; }
static void digits_tiles(int, const PackedLinear&, const void*, int, size_t, size_t, float*, size_t, const float*) {}
#endif
