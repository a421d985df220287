// Numbers in units of a format to numbers (value) or codes (code) of the format; one struct a method, see ops.h.

LB_INLINE I not_a_number(F y) { return (I)((bits_of(y) & MAGNITUDE) > all(INFINITE)); }
LB_INLINE U by_sign(F y, const uint32_t* pair) { return select((I)bits_of(y) < 0, all(pair[1]), all(pair[0])); }

// noise words, of which the upper 24 bits count, against the share of the gap: true where the upper neighbour is taken
LB_INLINE I rises(F y, F low, F high, U noise) {
  F share = (y - low) / (high - low);
  return (I)(__builtin_convertvector((I)(noise >> 8), F) < share * 0x1p24f);
}

// clamp, add 1.5 * 2**23 units, subtract it again; zero comes out positive
struct Fixed {
  const Codec& c;
  LB_INLINE_MEMBER F value(F y, U) const {
    F t = smaller(larger(y, all(c.low)), all(c.high));
    F r = (t + c.magic) - c.magic;
    return select(not_a_number(y), float_of(all(c.nan_value[0])), r);
  }
  LB_INLINE_MEMBER U code_of(F v, F y) const {
    U k = (U)__builtin_convertvector(v * (1.0f / c.unit), I) & all((uint32_t)c.code_sign);
    return select(not_a_number(y), by_sign(y, c.nan_code), k);
  }
};

template <bool STOCHASTIC>
struct Float {
  const Codec& c;
  LB_INLINE_MEMBER F value(F y, U noise) const {
    const U b = bits_of(y), magnitude = b & MAGNITUDE, sign = b & SIGN;
    const F a = float_of(smaller(magnitude, all(one_bits(c.high))));
    const U exponent = larger(bits_of(a) & INFINITE, all(c.least));
    const F magic = float_of(exponent + c.lift);
    F r = (a + magic) - magic;
    if (STOCHASTIC) {
      const F unit = magic * 0x1p-23f;
      const F below = select((I)(r > a), r - unit, r), above = select((I)(below == a), below, below + unit);
      const I negative = (I)b < 0;
      const F low = select(negative, -above, below), high = select(negative, -below, above);
      r = select(rises(float_of(bits_of(a) | sign), low, high, noise), high, low);
    } else {
      r = float_of(bits_of(r) | sign);
    }
    return finish(c, y, r);
  }
  static LB_INLINE_MEMBER F finish(const Codec& c, F y, F r) {
    const U magnitude = bits_of(y) & MAGNITUDE;
    if (!c.keep_negative_zero) r = r + 0.0f;
    if (c.overflows) r = float_of(select(magnitude >= all(c.overflow_from), by_sign(y, c.overflow_value), bits_of(r)));
    return float_of(select(not_a_number(y), by_sign(y, c.nan_value), bits_of(r)));
  }
  LB_INLINE_MEMBER U code_of(F v, F y) const {
    const U magnitude = bits_of(v) & MAGNITUDE;
    const U normal = ((magnitude - c.least) >> c.drop) + (1u << (23 - c.drop));
    const U subnormal = (U)__builtin_convertvector(float_of(magnitude) * (1.0f / c.unit), I);
    return finish_code(c, v, y, select(magnitude < all(c.least), subnormal, normal));
  }
  static LB_INLINE_MEMBER U finish_code(const Codec& c, F v, F y, U k) {
    k = k | select((I)bits_of(v) < 0, all((uint32_t)c.code_sign), all(0u));
    if (c.overflows) k = select((bits_of(y) & MAGNITUDE) >= all(c.overflow_from), by_sign(y, c.overflow_code), k);
    return select(not_a_number(y), by_sign(y, c.nan_code), k);
  }
};

template <bool STOCHASTIC>
struct Wide {
  const Codec& c;
  LB_INLINE_MEMBER F value(F y, U noise) const {
    const U b = bits_of(y), sign = b & SIGN;
    const U a = smaller(b & MAGNITUDE, all(one_bits(c.high)));
    const uint32_t mask = (1u << c.drop) - 1;
    F r;
    if (STOCHASTIC) {
      const U below = a & ~mask, above = select((I)(below == a), below, below + (mask + 1));
      const I negative = (I)b < 0;
      const F low = float_of(select(negative, above, below) | sign), high = float_of(select(negative, below, above) | sign);
      r = select(rises(float_of(a | sign), low, high, noise), high, low);
    } else {
      r = float_of(((a + (mask >> 1) + (a >> c.drop & 1u)) & ~mask) | sign);
    }
    return Float<STOCHASTIC>::finish(c, y, r);
  }
  LB_INLINE_MEMBER U code_of(F v, F y) const {
    return Float<STOCHASTIC>::finish_code(c, v, y, (bits_of(v) & MAGNITUDE) >> c.drop);
  }
};

struct BucketRank {
  LB_INLINE_MEMBER static U pick(const void* table, U k) { return gather((const uint32_t*)table, k); }
  LB_INLINE_MEMBER static U value(const Codec& c, U k) { return pick(c.rank_value, k); }
  LB_INLINE_MEMBER static U inside(const Codec& c, U magnitude) {
    return smaller(larger(magnitude, all(c.bucket_low)), all(c.bucket_high)) - c.bucket_low;
  }
  LB_INLINE_MEMBER static U entry(const Codec& c, F y, U m) {
    return gather(c.buckets, (m >> c.bucket_shift) + select((I)bits_of(y) < 0, all(c.bucket_count), all(0u)));
  }
  LB_INLINE_MEMBER static U of(const Codec& c, F y) {
    const U magnitude = bits_of(y) & MAGNITUDE, m = inside(c, magnitude), found = entry(c, y, m);
    const I reached = (I)(m & ((1u << c.bucket_shift) - 1)) >= (I)(found >> 16);
    const U rank = select(reached, found >> 8, found) & 255u;
    return select((I)magnitude == 0, all(c.zero_rank), rank);
  }
};

// with values whose lower halves are zero, and with any; quicker than a gather where PICKS_256
struct BucketRankUpper : BucketRank {
  LB_INLINE_MEMBER static U value(const Codec& c, U k) { return pick256(c.rank_upper, k) << 16; }
};
struct BucketRankHalves : BucketRank {
  LB_INLINE_MEMBER static U value(const Codec& c, U k) { return pick256(c.rank_upper, k) << 16 | (pick256(c.rank_lower, k) & 0xffffu); }
};

// cut points after those of the bucket are above y, so only the step says how many there may be
struct SearchRank : BucketRank {
  LB_INLINE_MEMBER static U of(const Codec& c, F y) {
    const U magnitude = bits_of(y) & MAGNITUDE;
    U rank = select((I)magnitude == 0, all(c.zero_rank), entry(c, y, inside(c, magnitude)));
    for (uint32_t step = c.search_step; step; step >>= 1) {
      const F cut = float_of(pick(c.cuts, rank + (step - 1)));
      rank = rank + select((I)(y >= cut), all(step), all(0u));
    }
    return rank;
  }
};

struct ShortRank {
  LB_INLINE_MEMBER static U pick(const void* table, U k) { return pick16((const uint32_t*)table, k); }
  LB_INLINE_MEMBER static U value(const Codec& c, U k) { return pick(c.rank_value, k); }
  LB_INLINE_MEMBER static U of(const Codec& c, F y) {
    U rank = {};
    for (uint32_t step = 8; step; step >>= 1) {
      const F cut = float_of(pick(c.cuts, rank + (step - 1)));
      rank = rank + select((I)(y >= cut), all(step), all(0u));
    }
    return rank;
  }
};

template <class Rank, bool STOCHASTIC>
struct Table {
  const Codec& c;
  LB_INLINE_MEMBER U rank(F y, U noise) const {
    U k = Rank::of(c, y);
    if (STOCHASTIC) {
      k = smaller(k, all(c.last_rank - 1));
      const F low = float_of(Rank::pick(c.rank_number, k)), high = float_of(Rank::pick(c.rank_number, k + 1u));
      const F held = smaller(larger(y, low), high);
      const I up = (rises(held, low, high, noise) & (I)(y > low)) | (I)(y >= high);
      k = k - (U)up;  // true is -1
    }
    return k;
  }
  LB_INLINE_MEMBER F value(F y, U noise) const {
    U v = Rank::value(c, rank(y, noise));
    if (c.keep_negative_zero) v = v | (select((I)(v & MAGNITUDE) == 0, bits_of(y), all(0u)) & SIGN);
    return float_of(select(not_a_number(y), by_sign(y, c.nan_value), v));
  }
  LB_INLINE_MEMBER U code(F y, U noise) const {
    U k = Rank::pick(c.rank_code, rank(y, noise));
    if (c.negative_zero) k = select((I)(k == all(c.zero_code)) & ((I)bits_of(y) < 0), all(c.negative_zero_code), k);
    return select(not_a_number(y), by_sign(y, c.nan_code), k);
  }
};
