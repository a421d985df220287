// y = x W^T + bias for float32 x. A group of columns has accumulators of its own, which its scales multiply once.

#if defined(__AVX512F__)
constexpr int WIDTHS[] = {1, 2, 4, 8, 16, 24};  // rows of x that are multiplied at a time
#else
constexpr int WIDTHS[] = {1, 2, 4};
#endif
constexpr int WIDEST = WIDTHS[sizeof(WIDTHS) / sizeof(int) - 1];
constexpr int VECTORS = (int)TILE_ROWS / LANES;  // that hold the rows of a tile
constexpr size_t AT_A_TIME = 32;                 // groups whose scales are decoded ahead

// rows of x from `done` on that go together
LB_INLINE int width_of(size_t m, size_t done) {
  for (int width : WIDTHS)
    if ((size_t)width >= m - done) return width;
  return WIDEST;
}

// how many tiles at a time, so that enough sums are under way
constexpr int tiles_at_a_time(int width) { return LANES == 16 ? (width <= 4 ? 4 : width == 8 ? 2 : 1) : width <= 2 ? 2 : 1; }

// Input of a block of rows: [column as stored][width], then the sums of every group, [group][width].
static size_t linear_block(const PackedLinear& w, int width) { return (columns_of(w) + w.groups) * (size_t)width; }

static size_t linear_input_nbytes(const PackedLinear& w, size_t m) {
  size_t floats = 0;
  for (size_t done = 0; done < m; done += WIDEST) floats += linear_block(w, width_of(m, done));
  return 4 * floats;
}

static void linear_input(const PackedLinear& w, const float* x, size_t m, void* input) {
  float* to = (float*)input;
  const size_t stored = w.units * codes_of(w.bits), columns = columns_of(w);
  for (size_t done = 0; done < m; done += WIDEST) {
    const int width = width_of(m, done), rows = (int)(m - done < (size_t)width ? m - done : width);
    float* sums = to + columns * width;
    for (size_t g = 0; g < w.groups; g++) {
      const size_t first = g * w.group, count = first + w.group < w.columns ? w.group : w.columns - first;
      float* group = to + g * stored * width;
      for (int i = 0; i < width; i++) {
        const float* from = x + (done + i) * w.columns + first;
        float sum = 0;
        for (size_t k = 0; k < stored; k++) {
          const float one = i < rows && k < count ? from[k] : 0.0f;
          group[k * width + i] = one;
          sum += one;
        }
        sums[g * width + i] = sum;
      }
    }
    to += linear_block(w, width);
  }
}

// The sums of a tile, or what there is of it, to y.
LB_INLINE void put(const F* sums, const PackedLinear& w, size_t tile, float* y, const float* bias) {
  const size_t row = tile * TILE_ROWS, count = w.rows - row < TILE_ROWS ? w.rows - row : TILE_ROWS;
  if (count == TILE_ROWS) {
    for (int v = 0; v < VECTORS; v++) store(y + row + v * LANES, bias ? sums[v] + load(bias + row + v * LANES) : sums[v]);
    return;
  }
  float all_rows[TILE_ROWS];
  for (int v = 0; v < VECTORS; v++) store(all_rows + v * LANES, sums[v]);
  for (size_t k = 0; k < count; k++) y[row + k] = bias ? all_rows[k] + bias[row + k] : all_rows[k];
}

// `M` rows of x with `R` tiles.
template <class Decoder, int M, int R>
static void multiply(const PackedLinear& w, const Decoder& decoder, const float* x, int rows, size_t tile, float* y, size_t stride, const float* bias) {
  constexpr int N = R * VECTORS, WORDS = Decoder::WORDS, CODES = Decoder::CODES;
  const size_t group_words = words_of_group(w), tile_words = w.groups * group_words;
  const float* sums = x + columns_of(w) * M;
  const uint32_t* codes[N];
  for (int t = 0; t < N; t++) codes[t] = w.codes + (tile + t / VECTORS) * tile_words + t % VECTORS * LANES;
  alignas(64) float scale[R][AT_A_TIME * TILE_ROWS], offset[R][AT_A_TIME * TILE_ROWS];
  F total[M][N] = {};
  for (size_t first = 0; first < w.groups; first += AT_A_TIME) {
    const size_t count = w.groups - first < AT_A_TIME ? w.groups - first : AT_A_TIME;
    for (int r = 0; r < R; r++) {
      read_blocks(w.scale, tile + r, w.groups, first, count, scale[r]);
      if (w.offset.data) read_blocks(w.offset, tile + r, w.groups, first, count, offset[r]);
    }
    for (size_t g = 0; g < count; g++) {
      F part[M][N] = {};
      for (size_t u = 0; u < w.units; u++) {
        U words[N][WORDS];
        for (int t = 0; t < N; t++) {
          for (int k = 0; k < WORDS; k++) words[t][k] = load(codes[t] + k * TILE_ROWS);
          codes[t] += WORDS * TILE_ROWS;
        }
#pragma GCC unroll 32
        for (int i = 0; i < CODES; i++)
#pragma GCC unroll 8
          for (int t = 0; t < N; t++) {
            const F number = decoder.open(words[t]).at(i);
#pragma GCC unroll 24
            for (int m = 0; m < M; m++) part[m][t] = fused(number, spread(x + i * M + m), part[m][t]);
          }
        x += CODES * M;
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

static void linear_tiles(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, float* y, size_t stride, const float* bias) {
  const float* x = (const float*)input;
  for (size_t done = 0; done < m; done += WIDEST) {
    const int width = width_of(m, done), rows = (int)(m - done < (size_t)width ? m - done : width);
    float* to = y + done * stride;
    switch (w.decode == TABLE || w.decode == SYMMETRIC ? w.bits : -w.decode) {
      case 1: multiply_width<Lookup<1>>(width, w, x, rows, first, last, to, stride, bias); break;
      case 2: multiply_width<Lookup<2>>(width, w, x, rows, first, last, to, stride, bias); break;
      case 3: multiply_width<Lookup<3>>(width, w, x, rows, first, last, to, stride, bias); break;
      case 4: multiply_width<Lookup<4>>(width, w, x, rows, first, last, to, stride, bias); break;
      case 5: multiply_width<Lookup<5>>(width, w, x, rows, first, last, to, stride, bias); break;
      case 6: multiply_width<Lookup<6>>(width, w, x, rows, first, last, to, stride, bias); break;
      case -INTEGER: multiply_width<Integers<true>>(width, w, x, rows, first, last, to, stride, bias); break;
      case -UNSIGNED: multiply_width<Integers<false>>(width, w, x, rows, first, last, to, stride, bias); break;
      default:
        if (w.decode == SYMMETRIC) multiply_width<Symmetric>(width, w, x, rows, first, last, to, stride, bias);
        else multiply_width<Gathered>(width, w, x, rows, first, last, to, stride, bias);
    }
    x += linear_block(w, width);
  }
}

static uint32_t read_memory(const void* data, size_t nbytes) {
  const uint32_t* p = (const uint32_t*)data;
  U sum[4] = {};
  for (const uint32_t* end = p + nbytes / (16 * LANES) * (4 * LANES); p < end; p += 4 * LANES) {
#if defined(__x86_64__)
    for (int i = 0; i < 4 * LANES; i += 16) __builtin_prefetch(p + 1024 + i);
#endif
    for (int i = 0; i < 4; i++) sum[i] += load(p + i * LANES);
  }
  return (sum[0] + sum[1] + sum[2] + sum[3])[0];
}
