// HiFloat4: 64 numbers share a scale, 8 and 4 of them an exponent bit each; quantizers/hifloat4.py holds the definition.

LB_INLINE U swapped(U x, int distance) {
  U at = {};
  for (int i = 0; i < LANES; i++) at[i] = (uint32_t)(i ^ distance);
  return __builtin_shuffle(x, at);
}

// the largest of each four lanes, in all four
LB_INLINE U largest_of_four(U m) {
  m = larger(m, swapped(m, 1));
  return larger(m, swapped(m, 2));
}

template <class Elements>
static void hifloat4_by(const Codec& element, const Codec& scale, float seventh, const float* x, float* out, size_t n) {
  constexpr size_t MOST = 4096 / 64;
  const size_t blocks = n / 64;
  uint32_t most[MOST] = {};
  float level1[MOST] = {};
  measure(x, n, 64, most, nullptr, nullptr);
  for (size_t k = 0; k < blocks; k++) most[k] = most[k] >= INFINITE ? QUIET_NAN : most[k];
  for (size_t k = 0; k < MOST; k += LANES) store(level1 + k, float_of(bfloat16_from_wide(float_of(load(most + k)) * seventh) << 16));
  values(scale, Units{}, level1, level1, blocks, blocks, nullptr);
  const Elements round{element};
  for (size_t k = 0; k < blocks; k++) {
    const F L1 = all(level1[k]), r = float_of(bfloat16_from_wide(1.0f / L1) << 16);
    for (size_t i = 64 * k; i < 64 * (k + 1); i += LANES) {
      const F v = load(x + i);
      const U four = largest_of_four(bits_of(v) & MAGNITUDE);
      const U others = LANES == 4 ? largest_of_four(bits_of(load(x + (i ^ 4))) & MAGNITUDE) : swapped(four, LANES == 4 ? 0 : 4);
      const I e2 = (I)(float_of(larger(four, others)) * r >= 4.0f);
      const F half = select(e2, all(0.5f), all(1.0f));
      const I e3 = (I)(float_of(four) * r * half >= 2.0f);
      const F inverse = r * half * select(e3, all(0.5f), all(1.0f));
      const F unit = L1 * select(e2, all(2.0f), all(1.0f)) * select(e3, all(2.0f), all(1.0f));
      store(out + i, round.value(v * inverse, U{}) * unit);
    }
  }
}

// n is a multiple of 64 and at most RUN; `seventh` is 1/7 in bfloat16
static void hifloat4(const Codec& element, const Codec& scale, float seventh, const float* x, float* out, size_t n) {
  if (element.value_method == SHORT) return hifloat4_by<Table<ShortRank, false>>(element, scale, seventh, x, out, n);
  if (element.value_method == LOOKUP) return hifloat4_by<Table<BucketRank, false>>(element, scale, seventh, x, out, n);
  return hifloat4_by<Table<SearchRank, false>>(element, scale, seventh, x, out, n);
}
