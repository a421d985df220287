// y = x W^T + bias for float32 x. A group of columns has accumulators of its own, which its scales multiply once.

// Codes of 1 and 2 bits with a single row of x: four or two of them at once pick one of 16 sums t[c0] x0 + t[c1] x1 (...) that are made once
// for all rows of W. That takes a half or a quarter of the operations.
constexpr int together(int bits, int width) { return LANES == 16 && width == 1 && bits <= 2 ? 4 / bits : 0; }

// Input of a block of rows: [column as stored][width], or [columns as stored / together][16], then the sums of every group, [group][width].
static size_t linear_block_columns(const PackedLinear& w, int width) {
  const int n = together(w.bits, width);
  return n ? columns_of(w) / (size_t)n * 16 : columns_of(w) * (size_t)width;
}
static size_t linear_block(const PackedLinear& w, int width) { return linear_block_columns(w, width) + w.groups * (size_t)width; }

#if defined(__AVX512F__)
// the 16 sums of every `n` columns
static void sums_of_codes(const PackedLinear& w, const float* x, size_t count, size_t stored, int n, float* to) {
  __m512 numbers[4];
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int p = 0; p < n; p++) {
    const __m512i code = _mm512_and_si512(_mm512_srl_epi32(lane, _mm_cvtsi32_si128(p * w.bits)), _mm512_set1_epi32((1 << w.bits) - 1));
    numbers[p] = _mm512_permutexvar_ps(code, _mm512_loadu_ps(w.table));
  }
  for (size_t k = 0; k < stored; k += (size_t)n, to += 16) {
    __m512 sum = _mm512_setzero_ps();
    for (int p = 0; p < n; p++)
      if (k + p < count) sum = _mm512_fmadd_ps(numbers[p], _mm512_set1_ps(x[k + p]), sum);
    _mm512_storeu_ps(to, sum);
  }
}
#else
static void sums_of_codes(const PackedLinear&, const float*, size_t, size_t, int, float*) {}
#endif

static void float_input(const PackedLinear& w, const float* x, size_t rows, int width, float* to) {
  const size_t stored = w.units * codes_of(w.bits);
  const int n = together(w.bits, width);
  float* sums = to + linear_block_columns(w, width);
  for (size_t g = 0; g < w.groups; g++) {
    const size_t first = g * w.group, some = first + w.group < w.columns ? w.group : w.columns - first;
    for (int i = 0; i < width; i++) {
      const size_t count = (size_t)i < rows ? some : 0;  // a row that is not there is zero
      const float* from = x + i * w.columns + first;
      sums[g * width + i] = w.offset.data ? sum_of(from, count) : 0.0f;
      if (n) {
        sums_of_codes(w, from, count, stored, n, to + g * stored / n * 16);
        continue;
      }
      float* column = to + g * stored * width + i;
      if (width == 1) {
        __builtin_memcpy(column, from, 4 * count);
      } else {
        for (size_t k = 0; k < count; k++) column[k * width] = from[k];
      }
      for (size_t k = count; k < stored; k++) column[k * width] = 0.0f;
    }
  }
}

// `M` rows of x with `R` tiles.
template <class Decoder, int M, int R>
static void multiply(const PackedLinear& w, const Decoder& decoder, const float* x, int rows, size_t tile, float* y, size_t stride, const float* bias) {
  constexpr int N = R * VECTORS, WORDS = Decoder::WORDS, CODES = Decoder::CODES, STEP = Decoder::SUMS ? 16 : M;
  const size_t tile_words = w.groups * words_of_group(w);
  const float* sums = x + linear_block_columns(w, M);
  const uint32_t* codes[N];
  for (int t = 0; t < N; t++) codes[t] = w.codes + (tile + t / VECTORS) * tile_words + t % VECTORS * LANES;
  alignas(64) float scale[R][AT_A_TIME * TILE_ROWS], offset[R][AT_A_TIME * TILE_ROWS];
  F total[M][N] = {};
  Ahead ahead(w, R);
  for (size_t first = 0; first < w.groups; first += AT_A_TIME) {
    const size_t count = w.groups - first < AT_A_TIME ? w.groups - first : AT_A_TIME;
    for (int r = 0; r < R; r++) {
      read_blocks(w.scale, tile + r, w.groups, first, count, R, scale[r]);
      if (w.offset.data) read_blocks(w.offset, tile + r, w.groups, first, count, R, offset[r]);
    }
    for (size_t g = 0; g < count; g++) {
      F part[M][N] = {};
      for (size_t u = 0; u < w.units; u++) {
        U words[N][Decoder::LOADS];
        ahead.pass(WORDS * TILE_ROWS);
        for (int t = 0; t < N; t++) {
          for (int k = 0; k < Decoder::LOADS; k++) words[t][k] = Decoder::word(codes[t], k);
          for (int k = 0; k < WORDS && M <= FEW; k++) ahead.ask(codes[t] + k * TILE_ROWS);
          codes[t] += WORDS * TILE_ROWS;
        }
#pragma GCC unroll 32
        for (int i = 0; i < CODES; i++)
#pragma GCC unroll 8
          for (int t = 0; t < N; t++) {
            if constexpr (Decoder::SUMS) {
              part[0][t] += decoder.at(words[t], i, x + i * STEP);
            } else {
              const F number = decoder.at(words[t], i);
#pragma GCC unroll 24
              for (int m = 0; m < M; m++) part[m][t] = fused(number, spread(x + i * STEP + m), part[m][t]);
            }
          }
        x += CODES * STEP;
      }
#pragma GCC unroll 8
      for (int t = 0; t < N; t++) {
        const F s = load(scale[t / VECTORS] + g * TILE_ROWS + t % VECTORS * LANES);
#pragma GCC unroll 24
        for (int m = 0; m < M; m++) total[m][t] = fused(part[m][t], s, total[m][t]);
      }
      if (w.offset.data)
        for (int t = 0; t < N; t++) {
          const F o = load(offset[t / VECTORS] + g * TILE_ROWS + t % VECTORS * LANES);
          for (int m = 0; m < M; m++) total[m][t] = fused(o, spread(sums + (first + g) * M + m), total[m][t]);
        }
    }
  }
  for (int m = 0; m < rows; m++)
    for (int r = 0; r < R; r++) put(total[m] + r * VECTORS, w, tile + r, y + m * stride, bias);
}

template <class Decoder, int M>
static void multiply_range(const PackedLinear& w, const float* x, int rows, size_t first, size_t last, float* y, size_t stride, const float* bias) {
  constexpr int R = tiles_at_a_time(M);
  if constexpr (Decoder::BEYOND)
    if (first < last && last == tiles_of(w)) {
      const size_t within = first + (last - first - 1) / R * R;
      multiply_range<Decoder, M>(w, x, rows, first, within, y, stride, bias);
      return multiply_range<typename Decoder::Within, M>(w, x, rows, within, last, y, stride, bias);
    }
  const Decoder decoder(w);
  size_t tile = first;
  for (; tile + R <= last; tile += R) multiply<Decoder, M, R>(w, decoder, x, rows, tile, y, stride, bias);
  if constexpr (R > 1)
    for (; tile < last; tile++) multiply<Decoder, M, 1>(w, decoder, x, rows, tile, y, stride, bias);
}

template <class Decoder>
static void multiply_width(int width, const PackedLinear& w, const float* x, int rows, size_t first, size_t last, float* y, size_t stride,
                           const float* bias) {
  switch (width) {
    case 1: return multiply_range<Decoder, 1>(w, x, rows, first, last, y, stride, bias);
    case 2: return multiply_range<Decoder, 2>(w, x, rows, first, last, y, stride, bias);
    case 4: return multiply_range<Decoder, 4>(w, x, rows, first, last, y, stride, bias);
#if defined(__AVX512F__)
    case 8: return multiply_range<Decoder, 8>(w, x, rows, first, last, y, stride, bias);
    case 16: return multiply_range<Decoder, 16>(w, x, rows, first, last, y, stride, bias);
    default: return multiply_range<Decoder, 24>(w, x, rows, first, last, y, stride, bias);
#endif
  }
}

#if defined(__AVX512F__)
template <class Decoder>
static void multiply_few(int width, const PackedLinear& w, const float* x, int rows, size_t first, size_t last, float* y, size_t stride,
                         const float* bias) {
  if (width == 1) return multiply_range<Decoder, 1>(w, x, rows, first, last, y, stride, bias);
  if (width == 2) return multiply_range<Decoder, 2>(w, x, rows, first, last, y, stride, bias);
  multiply_range<Decoder, 4>(w, x, rows, first, last, y, stride, bias);
}
#endif

static void float_tiles(int width, const PackedLinear& w, const float* x, int rows, size_t first, size_t last, float* y, size_t stride,
                        const float* bias) {
#if defined(__AVX512F__)
  if (together(w.bits, width)) return multiply_range<Together, 1>(w, x, rows, first, last, y, stride, bias);
  if (w.bits == 4 && width <= FEW) return multiply_few<Nibbles>(width, w, x, rows, first, last, y, stride, bias);
#endif
  switch (w.decode == TABLE || w.decode == SYMMETRIC ? w.bits : -w.decode) {
    case 1: return multiply_width<Lookup<1>>(width, w, x, rows, first, last, y, stride, bias);
    case 2: return multiply_width<Lookup<2>>(width, w, x, rows, first, last, y, stride, bias);
    case 3: return multiply_width<Lookup<3>>(width, w, x, rows, first, last, y, stride, bias);
    case 4: return multiply_width<Lookup<4>>(width, w, x, rows, first, last, y, stride, bias);
    case 5: return multiply_width<Lookup<5>>(width, w, x, rows, first, last, y, stride, bias);
    case 6: return multiply_width<Lookup<6>>(width, w, x, rows, first, last, y, stride, bias);
    case -INTEGER: return multiply_width<Integers<true>>(width, w, x, rows, first, last, y, stride, bias);
    case -UNSIGNED: return multiply_width<Integers<false>>(width, w, x, rows, first, last, y, stride, bias);
    default:
      if (w.decode == SYMMETRIC) multiply_width<Symmetric>(width, w, x, rows, first, last, y, stride, bias);
      else multiply_width<Gathered>(width, w, x, rows, first, last, y, stride, bias);
  }
}

// The rows of x go in blocks. A block that may go as digits starts with 16 words, the first of which says whether it does.
constexpr size_t HEAD = 16;

static size_t linear_words(const PackedLinear& w, int width) {
  const size_t floats = linear_block(w, width), digits = takes_digits(w, width) ? digits_block(w, width) : 0;
  return digits ? HEAD + (digits < floats ? floats : digits) : floats;
}

static size_t linear_input_nbytes(const PackedLinear& w, size_t m) {
  size_t words = 0;
  for (size_t done = 0; done < m; done += WIDEST) words += linear_words(w, width_of(m, done));
  return 4 * words;
}

static void linear_input(const PackedLinear& w, const float* x, size_t m, void* input) {
  float* to = (float*)input;
  for (size_t done = 0; done < m; done += WIDEST) {
    const int width = width_of(m, done);
    const size_t rows = m - done < (size_t)width ? m - done : width;
    const float* from = x + done * w.columns;
    const bool able = takes_digits(w, width), digits = able && digits_input(w, from, rows, width, to + HEAD);
    if (able) *(int32_t*)to = digits;
    if (!digits) float_input(w, from, rows, width, able ? to + HEAD : to);
    to += linear_words(w, width);
  }
}

static void linear_tiles(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, float* y, size_t stride, const float* bias) {
  const float* x = (const float*)input;
  for (size_t done = 0; done < m; done += WIDEST) {
    const int width = width_of(m, done), rows = (int)(m - done < (size_t)width ? m - done : width);
    const bool able = takes_digits(w, width);
    float* to = y + done * stride;
    if (able && *(const int32_t*)x) digits_tiles(width, w, x + HEAD, rows, first, last, to, stride, bias);
    else float_tiles(width, w, able ? x + HEAD : x, rows, first, last, to, stride, bias);
    x += linear_words(w, width);
  }
}

// Four streams, as one does not reach what a core can read.
static uint32_t read_memory(const void* data, size_t nbytes) {
  const size_t part = nbytes / (16 * LANES) * LANES;  // words of a stream
  const uint32_t* p[4];
  U sum[4] = {};
  for (int s = 0; s < 4; s++) p[s] = (const uint32_t*)data + s * part;
  for (size_t i = 0; i < part; i += LANES)
    for (int s = 0; s < 4; s++) {
      __builtin_prefetch(p[s] + i + AHEAD);
      sum[s] += load(p[s] + i);
    }
  return (sum[0] + sum[1] + sum[2] + sum[3])[0];
}
