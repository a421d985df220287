// y = x W^T + bias for rows of x in int8: exact sums of integers. Only codes of 2, 4 and 8 bits.

// Input: widths as for float32; [word][width] where a word holds four int8 of one row of x in the order in which bytes of codes come
// (word j of a unit of c columns: columns j, j + c/4, ...; for 8 bits the four in a row), then [group][width] of what sums start with, for
// offsets as many sums of x as float32, then [width] scales.
static size_t int8_block(const PackedLinear& w, int width) {
  return (columns_of(w) / 4 + w.groups * (w.offset.data ? 2 : 1) + 1) * (size_t)width;
}

// One row to int8: s = max |x| / 127, q = x / s to nearest even. A row with NaN or Inf has such an s and zeros.
static float quantize_row(const float* x, size_t n, int8_t* q) {
  uint32_t most = 0;
  for (size_t k = 0; k < n; k++) {
    const uint32_t magnitude = one_bits(x[k]) & MAGNITUDE;
    most = magnitude > most ? magnitude : most;
  }
  const float s = one_float(most) / 127.0f;
  if (most == 0 || most >= INFINITE || s == 0) {
    __builtin_memset(q, 0, n);
    return s;
  }
  for (size_t k = 0; k < n; k++) {
    const float magic = 0x1.8p23f;  // 1.5 * 2**23: adding rounds to integers, ties to even
    q[k] = (int8_t)(int32_t)((x[k] / s + magic) - magic);
  }
  return s;
}

// bytes in the order of the input, for a group: q is filled with zeros up to whole units
template <int QUARTER>
static void ordered(const int8_t* q, size_t stored, int8_t* to) {
  for (size_t u = 0; u < stored; u += 4 * QUARTER)
    for (int j = 0; j < QUARTER; j++)
      for (int b = 0; b < 4; b++) to[u + 4 * j + b] = q[u + j + b * QUARTER];
}

static int32_t sum_of_bytes(const int8_t* q, size_t n) {
  int32_t sum = 0;
  size_t k = 0;
#if defined(__AVX512VNNI__)
  __m512i sums = _mm512_setzero_si512();
  for (; k < n; k += 64) {
    const __mmask64 there = n - k < 64 ? (1ull << (n - k)) - 1 : ~0ull;
    sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), _mm512_maskz_loadu_epi8(there, q + k));
  }
  return _mm512_reduce_add_epi32(sums);
#endif
  for (; k < n; k++) sum += q[k];
  return sum;
}

// A row of bytes in the order in which codes come, see `ordered`.
template <int QUARTER>
static void ordered_row(const int8_t* q, size_t n, int8_t* to) {
  size_t k = 0;
#if defined(__SSSE3__)
  const __m128i order = QUARTER == 2 ? _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)
                                     : _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (; k + 16 <= n; k += 16) _mm_storeu_si128((__m128i*)(to + k), _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)(q + k)), order));
#endif
  ordered<QUARTER>(q + k, n - k, to + k);
}

// A row of x as bytes in the order in which codes come, its sums of groups, its scale.
struct ByteRows {
  float* row;
  int8_t *q, *filled;
  static size_t nbytes(const PackedLinear& w) { return up64(4 * w.columns) + up64(w.columns) + up64(columns_of(w)); }
  ByteRows(const PackedLinear& w, void* room)
      : row((float*)room), q((int8_t*)room + up64(4 * w.columns)), filled(q + up64(w.columns)) {}
  // sums lie `stride` apart, group by group
  float quantize(const PackedLinear& w, const void* x, int32_t type, size_t at, int8_t* to, int32_t* sums, size_t stride) const {
    const size_t stored = w.units * codes_of(w.bits);
    read(x, type, at * w.columns, row, w.columns);
    const float scale = quantize_row(row, w.columns, q);
    stored_row(w, q, filled);
    for (size_t g = 0; g < w.groups; g++) sums[g * stride] = sum_of_bytes(filled + g * stored, stored);
    const size_t n = columns_of(w);
    w.bits == 8 ? (void)__builtin_memcpy(to, filled, n) : w.bits == 4 ? ordered_row<2>(filled, n, to) : ordered_row<4>(filled, n, to);
    return scale;
  }
};

// Sums of less than 2**22 in magnitude that start at the bits of 1.5 * 2**23 are float32 numbers 1.5 * 2**23 + sum as they are. Times a scale s,
// less 1.5 * 2**23 s, rounded once, that is sum * s rounded, wherever 1.5 * 2**23 s is exact: one operation instead of two.
constexpr float LIFT = 0x1.8p23f;
#if defined(__FMA__)
static bool lifted(const PackedLinear& w) {
  int32_t most = w.bits == 8 ? 255 : 0;
  for (int i = 0; i < 64 && w.bits < 8; i++) most = w.whole[i] > most ? w.whole[i] : most;
  return w.group * (size_t)(most > w.zero ? most : w.zero) * 128 < 1 << 22;
}
#else
static bool lifted(const PackedLinear&) { return false; }
#endif
// what sums of so many rows of x start higher by; with few rows it would take longer to lower the scales
static int32_t lift(const PackedLinear& w, size_t m) { return m > FEW && lifted(w) ? (int32_t)one_bits(LIFT) : 0; }

// -LIFT times n scales, and whether all of these are exact.
static bool lower(const float* scale, size_t n, float* to) {
  I off = {};
  for (size_t i = 0; i < n; i += LANES) {
    const F s = load(scale + i), product = s * -LIFT;
    store(to + i, product);
    off |= (I)!(fused(s, all(LIFT), product) == 0.0f);
  }
  return largest_lane((U)off & 1u) == 0;
}

// What blocks of rows take, and behind them room for the rows of one.
static size_t int8_blocks(const PackedLinear& w, size_t m) {
  size_t words = 0;
  for (size_t done = 0; done < m; done += WIDEST) words += int8_block(w, width_of(m, done));
  return up64(4 * words);
}
static size_t linear8_input_nbytes(const PackedLinear& w, size_t m) {
  return int8_blocks(w, m) + ByteRows::nbytes(w) + (m < (size_t)WIDEST ? m : (size_t)WIDEST) * columns_of(w);
}

static void linear8_input(const PackedLinear& w, const float* x, size_t m, void* input) {
  int32_t* to = (int32_t*)input;
  const size_t columns = columns_of(w);
  const ByteRows bytes(w, (char*)input + int8_blocks(w, m));
  int8_t* ordered_rows = (int8_t*)input + int8_blocks(w, m) + ByteRows::nbytes(w);
  for (size_t done = 0; done < m; done += WIDEST) {
    const int width = width_of(m, done), rows = (int)(m - done < (size_t)width ? m - done : width);
    const int32_t more = lift(w, width);
    int32_t* starts = to + columns / 4 * width;
    float *sums = (float*)(starts + w.groups * width), *scales = sums + (w.offset.data ? w.groups * width : 0);
    __builtin_memset(to, 0, 4 * int8_block(w, width));
    for (int i = 0; i < rows; i++) scales[i] = bytes.quantize(w, x, FLOAT32, done + i, ordered_rows + i * columns, starts + i, width);
    for (size_t i = 0; i < w.groups * width; i++) {
      if (w.offset.data) sums[i] = (float)starts[i];
      starts[i] = more - w.zero * starts[i];
    }
    for (size_t k = 0; k < columns / 4; k++)
      for (int i = 0; i < rows; i++) __builtin_memcpy(to + k * width + i, ordered_rows + i * columns + 4 * k, 4);
    to += int8_block(w, width);
  }
}

// sum + the four products of bytes, `a` unsigned and `b` signed
LB_INLINE I dot4(I sum, U a, const int32_t* b) {
#if defined(__AVX512VNNI__)
  return (I)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, _mm512_set1_epi32(*b));
#elif defined(__AVX512BW__)
  const __m512i x = _mm512_set1_epi32(*b), low = _mm512_set1_epi16(0xff);
  const __m512i even = _mm512_madd_epi16(_mm512_and_si512((__m512i)a, low), _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8));
  return sum + (I)even + (I)_mm512_madd_epi16(_mm512_srli_epi16((__m512i)a, 8), _mm512_srai_epi16(x, 8));
#elif defined(__AVX2__)
  const __m256i x = _mm256_set1_epi32(*b), low = _mm256_set1_epi16(0xff);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256((__m256i)a, low), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
  return sum + (I)even + (I)_mm256_madd_epi16(_mm256_srli_epi16((__m256i)a, 8), _mm256_srai_epi16(x, 8));
#else
  for (int i = 0; i < 4; i++) sum += (I)(a >> 8 * i & 0xff) * (*b << (24 - 8 * i) >> 24);
  return sum;
#endif
}

// Bytes of codes to the whole numbers of the table, unsigned.
template <int BITS>
struct Wholes {
  U flip;
#if defined(__AVX512VBMI__)
  __m512i table;  // repeats, so what lies above a code does not matter
  LB_INLINE_MEMBER explicit Wholes(const PackedLinear& w) : flip(all((uint32_t)w.flip * 0x01010101u)), table(_mm512_loadu_si512(w.whole)) {}
#elif defined(__AVX512BW__)
  __m512i table;
  LB_INLINE_MEMBER explicit Wholes(const PackedLinear& w) : flip(all((uint32_t)w.flip * 0x01010101u)) {
    table = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)w.whole));
  }
#elif defined(__AVX2__)
  __m256i table;
  LB_INLINE_MEMBER explicit Wholes(const PackedLinear& w) : flip(all((uint32_t)w.flip * 0x01010101u)) {
    table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)w.whole));
  }
#else
  const uint8_t* table;
  LB_INLINE_MEMBER explicit Wholes(const PackedLinear& w) : flip(all((uint32_t)w.flip * 0x01010101u)), table(w.whole) {}
#endif
  LB_INLINE_MEMBER U bytes(U word, int j) const {
    if (BITS == 8) return word ^ flip;
#if defined(__AVX512VBMI__)
    return (U)_mm512_permutexvar_epi8((__m512i)(j ? word >> j * BITS : word), table);
#endif
    const U codes = (j ? word >> j * BITS : word) & (BITS == 4 ? 0x0f0f0f0fu : 0x03030303u);
#if defined(__AVX512BW__)
    return (U)_mm512_shuffle_epi8(table, (__m512i)codes);
#elif defined(__AVX2__)
    return (U)_mm256_shuffle_epi8(table, (__m256i)codes);
#else
    U out = {};
    for (int b = 0; b < 4; b++)
      for (int l = 0; l < LANES; l++) out[l] |= (uint32_t)table[codes[l] >> 8 * b & 0xff] << 8 * b;
    return out;
#endif
  }
};

template <int BITS, int M, int R>
static void multiply_int8(const PackedLinear& w, const Wholes<BITS>& wholes, const int32_t* x, int rows, size_t tile, float* y, size_t stride,
                          const float* bias) {
  constexpr int N = R * VECTORS, QUARTER = 8 / BITS;
  const size_t tile_words = w.groups * words_of_group(w);
  const int32_t *start = x + columns_of(w) / 4 * M, more = M > FEW ? lift(w, M) : 0;
  const float *sum = (const float*)(start + w.groups * M), *row_scales = sum + (w.offset.data ? w.groups * M : 0);
  const uint32_t* codes[N];
  for (int t = 0; t < N; t++) codes[t] = w.codes + (tile + t / VECTORS) * tile_words + t % VECTORS * LANES;
  alignas(64) float scale[R][AT_A_TIME * TILE_ROWS], offset[R][AT_A_TIME * TILE_ROWS], lowered[R][AT_A_TIME * TILE_ROWS];
  F total[M][N] = {};
  Ahead ahead(w, R);
  for (size_t first = 0; first < w.groups; first += AT_A_TIME) {
    const size_t count = w.groups - first < AT_A_TIME ? w.groups - first : AT_A_TIME;
    bool exact = M > FEW && more;
    for (int r = 0; r < R; r++) {
      read_blocks(w.scale, tile + r, w.groups, first, count, R, scale[r]);
      if (w.offset.data) read_blocks(w.offset, tile + r, w.groups, first, count, R, offset[r]);
      if (w.unit != 1.0f)
        for (size_t i = 0; i < count * TILE_ROWS; i += LANES) store(scale[r] + i, load(scale[r] + i) * all(w.unit));
      if (exact) exact = lower(scale[r], count * TILE_ROWS, lowered[r]);
    }
    for (size_t g = 0; g < count; g++, start += M) {
      I part[M][N];
#pragma GCC unroll 24
      for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int t = 0; t < N; t++) part[m][t] = (I)all((uint32_t)start[m]);
      for (size_t u = 0; u < w.units; u++) {
        ahead.pass(TILE_ROWS);
#pragma GCC unroll 8
        for (int t = 0; t < N; t++) {
          const U word = load(codes[t]);
          ahead.ask(codes[t]);
          codes[t] += TILE_ROWS;
#pragma GCC unroll 4
          for (int j = 0; j < QUARTER; j++) {
            const U bytes = wholes.bytes(word, j);
#pragma GCC unroll 24
            for (int m = 0; m < M; m++) part[m][t] = dot4(part[m][t], bytes, x + j * M + m);
          }
        }
        x += QUARTER * M;
      }
#pragma GCC unroll 8
      for (int t = 0; t < N; t++) {
        const size_t at = g * TILE_ROWS + t % VECTORS * LANES;
        const F s = load(scale[t / VECTORS] + at);
        if (exact) {
          const F low = load(lowered[t / VECTORS] + at);
#pragma GCC unroll 24
          for (int m = 0; m < M; m++) total[m][t] += fused((F)part[m][t], s, low);
        } else {
#pragma GCC unroll 24
          for (int m = 0; m < M; m++) total[m][t] += __builtin_convertvector(part[m][t] - more, F) * s;
        }
        if (w.offset.data)
#pragma GCC unroll 24
          for (int m = 0; m < M; m++) total[m][t] += load(offset[t / VECTORS] + at) * spread(sum + (first + g) * M + m);
      }
    }
  }
  for (int m = 0; m < rows; m++) {
    for (int t = 0; t < N; t++) total[m][t] *= all(row_scales[m]);
    for (int r = 0; r < R; r++) put(total[m] + r * VECTORS, w, tile + r, y + m * stride, bias);
  }
}

template <int BITS, int M>
static void multiply_int8_range(const PackedLinear& w, const int32_t* x, int rows, size_t first, size_t last, float* y, size_t stride, const float* bias) {
  constexpr int R = tiles_at_a_time(M);
  const Wholes<BITS> wholes(w);
  size_t tile = first;
  for (; tile + R <= last; tile += R) multiply_int8<BITS, M, R>(w, wholes, x, rows, tile, y, stride, bias);
  if constexpr (R > 1)
    for (; tile < last; tile++) multiply_int8<BITS, M, 1>(w, wholes, x, rows, tile, y, stride, bias);
}

template <int BITS>
static void multiply_int8_width(int width, const PackedLinear& w, const int32_t* x, int rows, size_t first, size_t last, float* y, size_t stride,
                                const float* bias) {
  switch (width) {
    case 1: return multiply_int8_range<BITS, 1>(w, x, rows, first, last, y, stride, bias);
    case 2: return multiply_int8_range<BITS, 2>(w, x, rows, first, last, y, stride, bias);
    case 4: return multiply_int8_range<BITS, 4>(w, x, rows, first, last, y, stride, bias);
#if defined(__AVX512F__)
    case 8: return multiply_int8_range<BITS, 8>(w, x, rows, first, last, y, stride, bias);
    case 16: return multiply_int8_range<BITS, 16>(w, x, rows, first, last, y, stride, bias);
    default: return multiply_int8_range<BITS, 24>(w, x, rows, first, last, y, stride, bias);
#endif
  }
}

static void linear8_tiles(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, float* y, size_t stride, const float* bias) {
  const int32_t* x = (const int32_t*)input;
  for (size_t done = 0; done < m; done += WIDEST) {
    const int width = width_of(m, done), rows = (int)(m - done < (size_t)width ? m - done : width);
    float* to = y + done * stride;
    if (w.bits == 2) multiply_int8_width<2>(width, w, x, rows, first, last, to, stride, bias);
    if (w.bits == 4) multiply_int8_width<4>(width, w, x, rows, first, last, to, stride, bias);
    if (w.bits == 8) multiply_int8_width<8>(width, w, x, rows, first, last, to, stride, bias);
    x += int8_block(w, width);
  }
}
