// From the numbers of blocks to their scales; scaling/{absmax,power_of_two,minmax,sign_split}.py hold the definitions.

#if defined(__AVX512F__)
// lanes of both in pairs of `distance`: the larger one of a pair of a where the lane's bit is clear, of b where it is set
template <int distance>
LB_INLINE U paired(U a, U b) {
  U first = {}, second = {};
  for (int i = 0; i < LANES; i++) {
    first[i] = (uint32_t)(i & distance ? LANES + (i ^ distance) : i);
    second[i] = (uint32_t)(i & distance ? LANES + i : i ^ distance);
  }
  return larger(__builtin_shuffle(a, b, first), __builtin_shuffle(a, b, second));
}

// the maxima of sixteen blocks of 16 or 32 numbers, one a lane
LB_INLINE U sixteen_maxima(const float* x, size_t width) {
  U m[16];
  for (int i = 0; i < 16; i++) {
    m[i] = bits_of(load(x + i * width)) & MAGNITUDE;
    if (width == 32) m[i] = larger(m[i], bits_of(load(x + i * width + 16)) & MAGNITUDE);
  }
  for (int i = 0; i < 8; i++) m[i] = paired<1>(m[2 * i], m[2 * i + 1]);
  for (int i = 0; i < 4; i++) m[i] = paired<2>(m[2 * i], m[2 * i + 1]);
  for (int i = 0; i < 2; i++) m[i] = paired<4>(m[2 * i], m[2 * i + 1]);
  return paired<8>(m[0], m[1]);
}
#endif

static void measure(const float* x, size_t n, size_t width, uint32_t* most, float* low, float* high) {
  size_t i = 0;
  if (width == 1) {
    for (; i < n; i++) {
      const uint32_t m = one_bits(x[i]) & MAGNITUDE;
      most[i] = m > most[i] ? m : most[i];
      if (low) {
        low[i] = x[i] < low[i] ? x[i] : low[i];
        high[i] = x[i] > high[i] ? x[i] : high[i];
      }
    }
    return;
  }
#if defined(__AVX512F__)
  if ((width == 16 || width == 32) && !low)
    for (; i + 16 * width <= n; i += 16 * width) store(most + i / width, larger(load(most + i / width), sixteen_maxima(x + i, width)));
#endif
  for (size_t block = i / width; i < n; block++) {
    const size_t end = i + width < n ? i + width : n;
    U m = {}, other = {};
    F l = {}, h = {};
    if (low) {
      l = all(low[block]);
      h = all(high[block]);
      for (; i + LANES <= end; i += LANES) {
        const F v = load(x + i);
        m = larger(m, bits_of(v) & MAGNITUDE);
        l = smaller(v, l);
        h = larger(v, h);
      }
    } else {
      for (; i + 2 * LANES <= end; i += 2 * LANES) {
        m = larger(m, bits_of(load(x + i)) & MAGNITUDE);
        other = larger(other, bits_of(load(x + i + LANES)) & MAGNITUDE);
      }
    }
    uint32_t found = largest_lane(larger(m, other));
    for (size_t k = i; k < end; k++) {
      const uint32_t one = one_bits(x[k]) & MAGNITUDE;
      found = one > found ? one : found;
    }
    most[block] = found > most[block] ? found : most[block];
    if (low) {
      float least = low[block], largest = high[block];
      for (int k = 0; k < LANES; k++) {
        least = l[k] < least ? l[k] : least;
        largest = h[k] > largest ? h[k] : largest;
      }
      for (size_t k = i; k < end; k++) {
        least = x[k] < least ? x[k] : least;
        largest = x[k] > largest ? x[k] : largest;
      }
      low[block] = least;
      high[block] = largest;
    }
    i = end;
  }
}

LB_INLINE U held(F scale) { return smaller(bits_of(scale), all(INFINITE - 1)); }

// floor(log2 a) - top, one more where the mantissa is at least the threshold; then 2 to that, exponents held to -127..127
LB_INLINE U power_of_two(const ScaleRule& r, U a) {
  const U lifted = bits_of(float_of(a) * 0x1p24f);
  const I tiny = (I)(a >> 23) == 0;
  const U field = select(tiny, (lifted >> 23) - 24u, a >> 23);
  const I up = (I)(select(tiny, lifted, a) & 0x7fffffu) >= (I)all(r.threshold);
  I e = (I)field - (127 + r.top_exponent) - up;
  e = e > -127 ? e : I{} - 127;
  e = e < 127 ? e : I{} + 127;
  const U scale = select(e == -127, all(0x00400000u), (U)(e + 127) << 23);
  return select((I)a == 0, all(0u), scale);
}

LB_INLINE F minmax_scale(const ScaleRule& r, F low, F high) {
  const F range = high - low;
  const U direct = held(range / r.steps), halved = held(2.0f * float_of(held((high * 0.5f - low * 0.5f) / r.steps)));
  return float_of(select((I)(bits_of(range) == all(INFINITE)), halved, direct));
}

LB_INLINE F minmax_zero(const ScaleRule& r, F low, F scale) {
  const F exact = r.low - low / scale;
  const U sign = bits_of(exact) & SIGN, magnitude = bits_of(exact) & MAGNITUDE;
  const F small = float_of(bits_of((float_of(magnitude) + 0x1p23f) - 0x1p23f) | sign);
  F rounded = select((I)(magnitude < all(0x4b000000u)), small, exact);
  rounded = float_of(select((I)(magnitude >= all(INFINITE)), all(0u), bits_of(rounded)));
  return smaller(larger(rounded, all(r.low)), all(r.high));
}

LB_INLINE void lanes_of_scales(const ScaleRule& r, const uint32_t* most, const float* low, const float* high, float* scale, float* second) {
  const U a = load(most);
  U s;
  if (r.rule == POWER_OF_TWO) {
    s = power_of_two(r, a);
  } else if (r.rule == MINMAX) {
    const F found = minmax_scale(r, load(low), load(high));
    s = bits_of(found);
    store(second, minmax_zero(r, load(low), float_of(select(a >= all(INFINITE), all(QUIET_NAN), s))));
  } else if (r.rule == SIGN_SPLIT) {
    s = held(load(high) / r.high + 0.0f);
    const U negative = held(load(low) / r.low + 0.0f);
    store((uint32_t*)second, select(a >= all(INFINITE), all(QUIET_NAN), negative));
  } else if (r.rule == EXTREMES) {
    s = bits_of(load(high));
    store(second, load(low));
  } else {
    s = held(float_of(a) / r.top);
  }
  store((uint32_t*)scale, select(a >= all(INFINITE), all(QUIET_NAN), s));
}

static void scales(const ScaleRule& r, const uint32_t* most, const float* low, const float* high, float* scale, float* second, size_t n) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES)
    lanes_of_scales(r, most + i, low ? low + i : nullptr, high ? high + i : nullptr, scale + i, second ? second + i : nullptr);
  if (const size_t left = n - i) {
    uint32_t m[LANES] = {};
    float l[LANES] = {}, h[LANES] = {}, s[LANES], z[LANES] = {};
    __builtin_memcpy(m, most + i, 4 * left);
    if (low) __builtin_memcpy(l, low + i, 4 * left);
    if (high) __builtin_memcpy(h, high + i, 4 * left);
    lanes_of_scales(r, m, l, h, s, z);
    __builtin_memcpy(scale + i, s, 4 * left);
    if (second) __builtin_memcpy(second + i, z, 4 * left);
  }
}
