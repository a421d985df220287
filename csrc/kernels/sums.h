// Sums in one stated order, that of scaling.fixed_sum: numbers are filled up with zeros to a power of two, and halves are added
// until one is left. Longer sums are sums of the sums of pieces of PIECE numbers.

// n <= PIECE numbers; v has room for the power of two and is overwritten
static double fold(double* v, size_t n) {
  size_t size = 1;
  while (size < n) size *= 2;
  for (size_t i = n; i < size; i++) v[i] = 0;
  for (size_t half = size / 2; half; half /= 2)
    for (size_t i = 0; i < half; i++) v[i] += v[i + half];
  return v[0];
}

typedef double D __attribute__((vector_size(8 * LANES)));
typedef double DLoose __attribute__((vector_size(8 * LANES), aligned(8), may_alias));

template <bool ERRORS>
LB_INLINE F term(F x, F y) {
  if (!ERRORS) return float_of(bits_of(x) & MAGNITUDE);
  const F error = y - x;
  return error * error;
}

#if defined(__AVX512F__)
typedef double D8 __attribute__((vector_size(64)));
typedef double DLoose8 __attribute__((vector_size(64), aligned(8), may_alias));
typedef int64_t L8 __attribute__((vector_size(64)));

// sums of lanes in pairs of `distance`: of a where the lane's bit is clear, of b where it is set
template <int distance>
LB_INLINE D8 added(D8 a, D8 b) {
  L8 first = {}, second = {};
  for (int i = 0; i < 8; i++) {
    first[i] = i & distance ? 8 + (i ^ distance) : i;
    second[i] = i & distance ? 8 + i : i ^ distance;
  }
  return __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, second);
}

// the first half of sixteen numbers, plus the second
LB_INLINE D8 halves_of(F e) { return _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)e)) + _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)e, 1)); }

// the sums of eight blocks of 16 or 32 numbers, one a lane, as `fold` adds them
template <bool ERRORS>
LB_INLINE D8 eight_sums(const float* x, const float* y, size_t width) {
  D8 d[8];
  for (int i = 0; i < 8; i++) {
    const float *p = x + i * width, *q = ERRORS ? y + i * width : p;
    const F e = term<ERRORS>(load(p), load(q));
    if (width == 16) {
      d[i] = halves_of(e);
      continue;
    }
    const F f = term<ERRORS>(load(p + 16), load(q + 16));
    const D8 low = _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)e)) + _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)f));
    d[i] = low + (_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)e, 1)) + _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)f, 1)));
  }
  for (int i = 0; i < 4; i++) d[i] = added<4>(d[i], d[i + 4]);
  for (int i = 0; i < 2; i++) d[i] = added<2>(d[i], d[i + 2]);
  return added<1>(d[0], d[1]);
}
#endif

// two numbers of each pair are added before anything is stored: half of the work of the fold
template <bool ERRORS>
static void sums_of(const float* x, const float* y, size_t n, size_t width, double* out) {
  double v[PIECE];
  float last[2][LANES] = {};
  size_t at = 0;
#if defined(__AVX512F__)
  if (width == 16 || width == 32)
    for (; at + 8 * width <= n; at += 8 * width, out += 8) *(DLoose8*)out = eight_sums<ERRORS>(x + at, ERRORS ? y + at : x, width);
#endif
  for (; at < n; at += width, out++) {
    const size_t count = at + width < n ? width : n - at;
    if (count == width && width >= 2 * LANES && (width & (width - 1)) == 0) {
      const size_t half = width / 2;
      for (size_t i = 0; i < half; i += LANES) {
        const float* p = x + at + i;
        const float* q = ERRORS ? y + at + i : p;
        const D a = __builtin_convertvector(term<ERRORS>(load(p), load(q)), D);
        const D b = __builtin_convertvector(term<ERRORS>(load(p + half), load(q + half)), D);
        *(DLoose*)(v + i) = a + b;
      }
      *out = fold(v, half);
      continue;
    }
    for (size_t i = 0; i < count; i += LANES) {
      const float *p = x + at + i, *q = ERRORS ? y + at + i : p;
      const size_t left = count - i;
      if (left < LANES) {
        __builtin_memcpy(last[0], p, 4 * left);
        __builtin_memcpy(last[1], q, 4 * left);
        p = last[0];
        q = last[1];
      }
      const D found = __builtin_convertvector(term<ERRORS>(load(p), load(q)), D);
      for (size_t k = 0; k < LANES && k < left; k++) v[i + k] = found[k];
    }
    *out = fold(v, count);
  }
}

static void sums(const float* x, const float* y, size_t n, size_t width, double* out) {
  return y ? sums_of<true>(x, y, n, width, out) : sums_of<false>(x, y, n, width, out);
}
