// Blocks of numbers to numbers or codes of a grid: x = scale * (value - zero) + offset, in the order of quantizers/grid.py.

struct Unit {
  F scale, zero, offset, negative, inverse;
};

// what is there beside the scale; the ordinary case has nothing and costs nothing
LB_INLINE bool is_plain(const Units& u) { return !u.zero && !u.offset && !u.negative && !u.inverse; }

template <bool EACH>
LB_INLINE F one_unit(const float* p, size_t at) {
  return EACH ? load(p + at) : all(p[at]);
}

template <bool EACH>
LB_INLINE Unit unit_at(const Units& u, size_t at) {
  Unit found = {};
  if (u.scale) found.scale = one_unit<EACH>(u.scale, at);
  if (u.zero) found.zero = one_unit<EACH>(u.zero, at);
  if (u.offset) found.offset = one_unit<EACH>(u.offset, at);
  if (u.negative) found.negative = one_unit<EACH>(u.negative, at);
  if (u.inverse) found.inverse = one_unit<EACH>(u.inverse, at);
  return found;
}

LB_INLINE F divided(F x, F scale) { return float_of(select((I)(scale == 0.0f), all(0u), bits_of(x / scale))); }

// in units of the format, with a zero point already rounded to an integer and moved
template <bool PLAIN>
LB_INLINE F in_units(const Codec& c, const Units& u, const Unit& one, F x) {
  if (PLAIN) return u.scale ? divided(x, one.scale) : x;
  if (u.offset) x = x - one.offset;
  F y = x;
  if (u.inverse) {
    y = x * one.inverse;
  } else if (u.scale) {
    y = divided(x, u.negative ? select((I)(x < 0.0f), one.negative, one.scale) : one.scale);
  }
  if (u.zero) {
    const F held = smaller(larger(y, all(-0x1p21f)), all(0x1p21f));
    const F moved = ((held + 0x1.8p23f) - 0x1.8p23f) + one.zero;
    y = select(not_a_number(y), y, smaller(larger(moved, all(c.low)), all(c.high)));
  }
  return y;
}

template <bool PLAIN>
LB_INLINE F out_of_units(const Units& u, const Unit& one, F v) {
  if (PLAIN) return u.scale ? v * one.scale : v;
  if (u.zero) v = v - one.zero;
  if (u.scale) v = v * (u.negative ? select((I)(v < 0.0f), one.negative, one.scale) : one.scale);
  return u.offset ? v + one.offset : v;
}

template <class Method, bool PLAIN>
struct ToValues {
  using Out = float;
  const Codec& c;
  const Units& u;
  LB_INLINE_MEMBER void operator()(const float* x, float* out, const Unit& one, const uint32_t* noise) const {
    const F y = in_units<PLAIN>(c, u, one, load(x));
    store(out, out_of_units<PLAIN>(u, one, Method{c}.value(y, noise ? load(noise) : U{})));
  }
};

LB_INLINE void store_codes(uint8_t* out, U codes) { *(BLoose*)out = __builtin_convertvector(codes, B); }
LB_INLINE void store_codes(int32_t* out, U codes) { store((uint32_t*)out, codes); }

template <class Method>
LB_INLINE auto code_of(const Method& m, F y, U noise) -> decltype(m.code(y, noise)) { return m.code(y, noise); }
template <class Method>
LB_INLINE auto code_of(const Method& m, F y, U noise) -> decltype(m.code_of(y, y)) { return m.code_of(m.value(y, noise), y); }

template <class Method, class Code>
struct ToCodes {
  using Out = Code;
  const Codec& c;
  const Units& u;
  LB_INLINE_MEMBER void operator()(const float* x, Code* out, const Unit& one, const uint32_t* noise) const {
    const F y = in_units<false>(c, u, one, load(x));
    store_codes(out, code_of(Method{c}, y, noise ? load(noise) : U{}));
  }
};

// All lanes of n numbers with the unit of their block. `width` is 1 (a unit an element), a multiple of LANES, or at least n.
template <class Step, class In>
LB_INLINE void each_block(const Step step, const Units& u, const In* x, typename Step::Out* out, size_t n, size_t width, const uint32_t* noise) {
  In in[LANES] = {};
  typename Step::Out rest[LANES];
  uint32_t words[LANES] = {};
  size_t i = 0;
  const size_t whole = n / LANES * LANES;
  if (width == 1) {
    for (; i < whole; i += LANES) step(x + i, out + i, unit_at<true>(u, i), noise ? noise + i : nullptr);
  } else if (width == LANES) {
    for (; i < whole; i += LANES) step(x + i, out + i, unit_at<false>(u, i / LANES), noise ? noise + i : nullptr);
  } else {
    for (size_t block = 0; i < whole; block++) {
      const Unit one = unit_at<false>(u, block);
      const size_t end = i + width < whole ? i + width : whole;
      for (; i < end; i += LANES) step(x + i, out + i, one, noise ? noise + i : nullptr);
    }
  }
  if (const size_t left = n - i) {
    __builtin_memcpy(in, x + i, left * sizeof(In));
    if (noise) __builtin_memcpy(words, noise + i, left * sizeof(uint32_t));
    Unit one;
    if (width == 1) {
      float units[5][LANES] = {};
      Units padded = {};
      const float* const from[5] = {u.scale, u.zero, u.offset, u.negative, u.inverse};
      const float** const to[5] = {&padded.scale, &padded.zero, &padded.offset, &padded.negative, &padded.inverse};
      for (int k = 0; k < 5; k++) {
        if (!from[k]) continue;
        __builtin_memcpy(units[k], from[k] + i, left * sizeof(float));
        *to[k] = units[k];
      }
      one = unit_at<true>(padded, 0);
    } else {
      one = unit_at<false>(u, i / width);
    }
    step(in, rest, one, noise ? words : nullptr);
    __builtin_memcpy(out + i, rest, left * sizeof(rest[0]));
  }
}

template <class Method>
static void values_by(const Codec& c, const Units& u, const float* x, float* out, size_t n, size_t width, const uint32_t* noise) {
  if (is_plain(u))
    each_block(ToValues<Method, true>{c, u}, u, x, out, n, width, noise);
  else
    each_block(ToValues<Method, false>{c, u}, u, x, out, n, width, noise);
}

static void values(const Codec& c, const Units& u, const float* x, float* out, size_t n, size_t width, const uint32_t* noise) {
  const bool up = c.stochastic;
  switch (c.value_method) {
    case FIXED: return values_by<Fixed>(c, u, x, out, n, width, noise);
    case FLOAT: return (up ? values_by<Float<true>> : values_by<Float<false>>)(c, u, x, out, n, width, noise);
    case WIDE: return (up ? values_by<Wide<true>> : values_by<Wide<false>>)(c, u, x, out, n, width, noise);
    case LOOKUP:
      if (PICKS_256 && c.rank_upper && !up)
        return (c.rank_lower ? values_by<Table<BucketRankHalves, false>> : values_by<Table<BucketRankUpper, false>>)(c, u, x, out, n, width, noise);
      return (up ? values_by<Table<BucketRank, true>> : values_by<Table<BucketRank, false>>)(c, u, x, out, n, width, noise);
    case SEARCH: return (up ? values_by<Table<SearchRank, true>> : values_by<Table<SearchRank, false>>)(c, u, x, out, n, width, noise);
    default: return (up ? values_by<Table<ShortRank, true>> : values_by<Table<ShortRank, false>>)(c, u, x, out, n, width, noise);
  }
}

template <class Method, class Code>
static void codes_by(const Codec& c, const Units& u, const float* x, Code* out, size_t n, size_t width, const uint32_t* noise) {
  each_block(ToCodes<Method, Code>{c, u}, u, x, out, n, width, noise);
}

template <class Code>
LB_INLINE void codes_to(const Codec& c, const Units& u, const float* x, Code* out, size_t n, size_t width, const uint32_t* noise) {
  const bool up = c.stochastic;
  switch (c.code_method) {
    case FIXED: return codes_by<Fixed>(c, u, x, out, n, width, noise);
    case FLOAT: return (up ? codes_by<Float<true>, Code> : codes_by<Float<false>, Code>)(c, u, x, out, n, width, noise);
    case WIDE: return (up ? codes_by<Wide<true>, Code> : codes_by<Wide<false>, Code>)(c, u, x, out, n, width, noise);
    case LOOKUP: return (up ? codes_by<Table<BucketRank, true>, Code> : codes_by<Table<BucketRank, false>, Code>)(c, u, x, out, n, width, noise);
    case SEARCH: return (up ? codes_by<Table<SearchRank, true>, Code> : codes_by<Table<SearchRank, false>, Code>)(c, u, x, out, n, width, noise);
    default: return (up ? codes_by<Table<ShortRank, true>, Code> : codes_by<Table<ShortRank, false>, Code>)(c, u, x, out, n, width, noise);
  }
}

static void codes8(const Codec& c, const Units& u, const float* x, uint8_t* out, size_t n, size_t width, const uint32_t* noise) {
  codes_to(c, u, x, out, n, width, noise);
}

static void codes32(const Codec& c, const Units& u, const float* x, int32_t* out, size_t n, size_t width, const uint32_t* noise) {
  codes_to(c, u, x, out, n, width, noise);
}

struct FromCodes8 {
  using Out = float;
  const float* table;
  const Units& u;
  LB_INLINE_MEMBER void operator()(const uint8_t* codes, float* out, const Unit& one, const uint32_t*) const {
    const U k = __builtin_convertvector(*(const BLoose*)codes, U);
    store(out, out_of_units<false>(u, one, float_of(gather((const uint32_t*)table, k))));
  }
};

struct FromCodes32 {
  using Out = float;
  const float* table;
  const Units& u;
  LB_INLINE_MEMBER void operator()(const int32_t* codes, float* out, const Unit& one, const uint32_t*) const {
    store(out, out_of_units<false>(u, one, float_of(gather((const uint32_t*)table, load((const uint32_t*)codes)))));
  }
};

static void decode8(const float* table, const Units& u, const uint8_t* codes, float* out, size_t n, size_t width) {
  each_block(FromCodes8{table, u}, u, codes, out, n, width, nullptr);
}

// false where a code is not one of the table
static bool decode32(const float* table, uint32_t count, const Units& u, const int32_t* codes, float* out, size_t n, size_t width) {
  uint32_t most = 0;
  for (size_t i = 0; i < n; i++) most = (uint32_t)codes[i] > most ? (uint32_t)codes[i] : most;
  if (most >= count) return false;
  each_block(FromCodes32{table, u}, u, codes, out, n, width, nullptr);
  return true;
}
