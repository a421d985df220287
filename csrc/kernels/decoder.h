// What a decoder does between its products. Every sum runs in one order, whatever the number of threads.

constexpr float INFINITE_FLOAT = __builtin_inff();

// lanes added pairwise, the upper half to the lower
LB_INLINE float sum_of(F x) {
  float part[LANES];
  store(part, x);
  for (int wide = LANES / 2; wide; wide /= 2)
    for (int i = 0; i < wide; i++) part[i] += part[i + wide];
  return part[0];
}

LB_INLINE float largest_of(F x) {
  float most = x[0];
  for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
  return most;
}

// e^x within 2 units in the last place for x in [-87, 88], beyond it that of the end; NaN stays. x = k ln 2 + r with |r| <= ln 2 / 2,
// then Taylor's series.
LB_INLINE F exponential(F x) {
  x = larger(all(-87.0f), smaller(all(88.0f), x));
  const F magic = all(0x1.8p23f);
  const F shifted = fused(x, all(0x1.715476p0f), magic), k = shifted - magic;
  F r = fused(k, all(-0x1.62e4p-1f), x);  // ln 2 in two parts: products with k are exact in the first
  r = fused(k, all(-0x1.7f7d1cp-20f), r);
  F y = all(1.0f / 5040);
  const float factors[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (int i = 0; i < 7; i++) y = fused(y, r, all(factors[i]));
  return float_of(bits_of(y) + (bits_of(shifted) << 23)) + (r - r);
}

// weight * x / sqrt(mean(x^2) + eps); n is a multiple of 16
static void rms_norm(const float* x, const float* weight, float eps, float* out, size_t n) {
  F sum = {}, other = {};
  size_t i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES) {
    sum = fused(load(x + i), load(x + i), sum);
    other = fused(load(x + i + LANES), load(x + i + LANES), other);
  }
  if (i < n) sum = fused(load(x + i), load(x + i), sum);
  const F factor = all(1.0f / __builtin_sqrtf(sum_of(sum + other) / (float)n + eps));
  for (i = 0; i < n; i += LANES) store(out + i, load(weight + i) * (load(x + i) * factor));
}

// pairs (x_i, x_{i + half}) turned by an angle each
static void rotate(float* x, const float* cosine, const float* sine, size_t half) {
  size_t i = 0;
  for (; i + LANES <= half; i += LANES) {
    const F a = load(x + i), b = load(x + half + i), c = load(cosine + i), s = load(sine + i);
    store(x + i, a * c - b * s);
    store(x + half + i, b * c + a * s);
  }
  for (; i < half; i++) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cosine[i] - b * sine[i];
    x[half + i] = b * cosine[i] + a * sine[i];
  }
}

// gate / (1 + e^-gate) * up; n is a multiple of 16
static void swiglu(const float* gate, const float* up, float* out, size_t n) {
  for (size_t i = 0; i < n; i += LANES) {
    const F g = load(gate + i);
    store(out + i, g / (all(1.0f) + exponential(-g)) * load(up + i));
  }
}

static void accumulate(float* x, const float* y, size_t n) {
  for (size_t i = 0; i < n; i += LANES) store(x + i, load(x + i) + load(y + i));
}

// Scores of Q queries with all keys. Keys lie in groups of 16 positions, (groups, dim, 16), so that a register holds positions.
template <int Q>
static void score(const float* q, const float* k, size_t groups, size_t dim, float scale, float* scores) {
  for (size_t g = 0; g < groups; g++)
    for (int part = 0; part < 16; part += LANES) {
      F sum[Q] = {};
      const float* key = k + g * dim * 16 + part;
      for (size_t d = 0; d < dim; d++) {
        const F one = load(key + d * 16);
        for (int h = 0; h < Q; h++) sum[h] = fused(all(q[h * dim + d]), one, sum[h]);
      }
      for (int h = 0; h < Q; h++) store(scores + h * groups * 16 + g * 16 + part, sum[h] * scale);
    }
}

// Weights of the first n positions, not yet divided by their sum, which is returned; 0 for the rest of the groups.
LB_INLINE float soften(float* scores, size_t groups, size_t n) {
  for (size_t p = n; p < groups * 16; p++) scores[p] = -INFINITE_FLOAT;
  F most = all(-INFINITE_FLOAT), sum = {};
  for (size_t p = 0; p < groups * 16; p += LANES) most = larger(most, load(scores + p));
  const F top = all(largest_of(most));
  for (size_t p = 0; p < groups * 16; p += LANES) {
    const F s = load(scores + p), e = float_of(select((I)(s == all(-INFINITE_FLOAT)), U{}, bits_of(exponential(s - top))));
    store(scores + p, e);
    sum += e;
  }
  return sum_of(sum);
}

// Sums of values (n, dim) under the weights of Q queries.
template <int Q>
static void mix(const float* weights, size_t stride, const float* sums, const float* v, size_t n, size_t dim, float* out) {
  for (size_t d = 0; d < dim; d += LANES) {
    F sum[Q] = {};
    for (size_t p = 0; p < n; p++) {
      const F one = load(v + p * dim + d);
      for (int h = 0; h < Q; h++) sum[h] = fused(all(weights[h * stride + p]), one, sum[h]);
    }
    for (int h = 0; h < Q; h++) store(out + h * dim + d, sum[h] / all(sums[h]));
  }
}

template <int Q>
static void attend_together(const float* q, const float* k, const float* v, size_t n, size_t dim, float scale, float* scores, float* out) {
  const size_t groups = (n + 15) / 16;
  float sums[Q];
  score<Q>(q, k, groups, dim, scale, scores);
  for (int h = 0; h < Q; h++) sums[h] = soften(scores + h * groups * 16, groups, n);
  mix<Q>(scores, groups * 16, sums, v, n, dim, out);
}

// Queries (queries, dim) of one token that share the keys and values of n positions; dim is a multiple of 16.
static void attend(const float* q, size_t queries, const float* k, const float* v, size_t n, size_t dim, float scale, float* scores,
                   float* out) {
  size_t h = 0;
  for (; h + 4 <= queries; h += 4) attend_together<4>(q + h * dim, k, v, n, dim, scale, scores, out + h * dim);
  if (queries - h == 3) attend_together<3>(q + h * dim, k, v, n, dim, scale, scores, out + h * dim);
  if (queries - h == 2) attend_together<2>(q + h * dim, k, v, n, dim, scale, scores, out + h * dim);
  if (queries - h == 1) attend_together<1>(q + h * dim, k, v, n, dim, scale, scores, out + h * dim);
}

// Rows first .. last - 1 of W (out, in) times x (in); in is a multiple of 16.
static void dense_rows(const float* W, const float* x, size_t in, size_t first, size_t last, float* y) {
  for (size_t r = first; r < last; r++) {
    const float* w = W + r * in;
    F sum[4] = {};
    size_t i = 0;
    for (; i + 4 * LANES <= in; i += 4 * LANES)
      for (int k = 0; k < 4; k++) sum[k] = fused(load(w + i + k * LANES), load(x + i + k * LANES), sum[k]);
    for (; i < in; i += LANES) sum[0] = fused(load(w + i), load(x + i), sum[0]);
    y[r] = sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
}
