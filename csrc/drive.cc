#include "drive.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "block_sums.h"
#include "select.h"
#include "threads.h"

namespace lowbit {
namespace {

constexpr size_t RUN = 1024;           // numbers handled at a time; the buffers of them fit the first-level cache
constexpr size_t TASK = 1 << 15;       // numbers of a task, about
constexpr size_t STREAMED = 1 << 22;   // from so many results on the caches are left alone

struct Buffers {
  alignas(64) float in[RUN];
  alignas(64) float out[RUN];
  alignas(64) uint32_t noise[RUN + 8];
  alignas(64) float units[5][RUN];
  alignas(64) uint32_t most[RUN];
  alignas(64) float low[RUN], high[RUN], scale[RUN], stored[RUN], second[RUN], trial[RUN];
  alignas(64) double error[RUN], least[RUN];
  uint8_t chosen[RUN];
  std::vector<double> pieces;
  size_t at, count;  // which numbers of this task `in` holds; none when the task begins
};

Buffers& buffers() {
  static thread_local Buffers own;
  return own;
}

Buffers& fresh_buffers() {
  buffers().count = 0;
  return buffers();
}

const float* moved(const float* p, size_t by) { return p ? p + by : nullptr; }
Units moved(const Units& u, size_t by) {
  return {moved(u.scale, by), moved(u.zero, by), moved(u.offset, by), moved(u.negative, by), moved(u.inverse, by)};
}
bool empty(const Units& u) { return !u.scale && !u.zero && !u.offset && !u.negative && !u.inverse; }

// numbers at .. at + n - 1 as float32; those that were measured just before are not converted again
const float* source(const Target& t, const void* x, int32_t type, size_t at, size_t n) {
  if (type == FLOAT32) return (const float*)x + at;
  Buffers& b = buffers();
  if (b.at != at || b.count != n) t.read(x, type, at, b.in, n);
  b.at = at;
  b.count = n;
  return b.in;
}

// the words of elements at .. at + n - 1
const uint32_t* words(const Target& t, const NoiseSource& s, size_t at, size_t n, uint32_t* buffer) {
  if (s.kind == PHILOX) {
    t.philox(s.key0, s.key1, at / 4, buffer, (at % 4 + n + 3) / 4);
    return buffer + at % 4;
  }
  if (s.kind == WORDS) {
    for (size_t i = 0; i < n; i++) buffer[i] = (uint32_t)s.words[at + i];
    return buffer;
  }
  return nullptr;
}

// What is done with a run of at most RUN numbers that starts at element `at`.
struct Encode {
  const Target& t;
  const Job& job;
  bool streamed;
  const Codec& codec;
  void operator()(const Units& u, size_t at, size_t n, size_t width) const {
    Buffers& b = buffers();
    const float* x = source(t, job.x, job.x_type, at, n);
    const uint32_t* noise = words(t, job.noise, at, n, b.noise);
    if (job.codes && job.code_bytes == 1) t.codes8(codec, u, x, (uint8_t*)job.codes + at, n, width, noise);
    if (job.codes && job.code_bytes == 4) t.codes32(codec, u, x, (int32_t*)job.codes + at, n, width, noise);
    if (!job.out) return;
    if (job.out_type == FLOAT32 && !streamed) {
      t.values(codec, u, x, (float*)job.out + at, n, width, noise);
    } else {
      t.values(codec, u, x, b.out, n, width, noise);
      t.write(b.out, job.out, job.out_type, at, n, streamed);
    }
  }
};

struct Decode {
  const Target& t;
  const float* table;
  uint32_t count;
  const void* codes;
  int32_t code_bytes;
  void* out;
  int32_t out_type;
  std::atomic<bool>& known;
  void operator()(const Units& u, size_t at, size_t n, size_t width) const {
    float* to = out_type == FLOAT32 ? (float*)out + at : buffers().out;
    if (code_bytes == 1) {
      const uint8_t* from = (const uint8_t*)codes + at;
      uint8_t most = 0;
      for (size_t i = 0; i < n; i++) most = std::max(most, from[i]);
      if (most >= count) {
        known = false;
        return;
      }
      t.decode8(table, u, from, to, n, width);
    } else if (!t.decode32(table, count, u, (const int32_t*)codes + at, to, n, width)) {
      known = false;
      return;
    }
    if (out_type != FLOAT32) t.write(to, out, out_type, at, n, false);
  }
};

// Columns first .. last - 1 of the row that starts at element `start`; units start at the first block of the row.
template <class Step>
void each_run(const Step& step, const Units& units, size_t start, size_t first, size_t last, size_t width) {
  if (empty(units) || width == 1 || (width % 16 == 0 && width <= RUN && first % width == 0)) {
    const size_t most = empty(units) ? RUN : RUN / width * width;
    for (size_t c = first; c < last; c += most) {
      const size_t n = std::min(most, last - c);
      step(moved(units, c / width), start + c, n, empty(units) ? n : width);
    }
  } else if (width >= 64) {
    for (size_t c = first; c < last;) {
      const size_t n = std::min({RUN, last - c, width - c % width});
      step(moved(units, c / width), start + c, n, n);
      c += n;
    }
  } else {
    Buffers& b = buffers();
    for (size_t c = first; c < last; c += RUN) {
      const size_t n = std::min(RUN, last - c);
      Units each = {};
      const float* const from[5] = {units.scale, units.zero, units.offset, units.negative, units.inverse};
      const float** const to[5] = {&each.scale, &each.zero, &each.offset, &each.negative, &each.inverse};
      for (int k = 0; k < 5; k++) {
        if (!from[k]) continue;
        for (size_t i = 0; i < n; i++) b.units[k][i] = from[k][(c + i) / width];
        *to[k] = b.units[k];
      }
      step(each, start + c, n, 1);
    }
  }
}

// blocks of one row, one after another, are blocks of the flat tensor where they fill the rows
Layout flattened(const Layout& l) {
  return l.block_rows == 1 && l.columns % l.block_columns == 0 ? Layout{1, 1, l.numel(), 1, l.block_columns} : l;
}

// Tasks are strips of block_rows rows, cut into ranges of columns.
struct Strips {
  Layout l;
  size_t strips, ranges, wide, blocks;  // of a batch; of a strip; columns of a range; blocks of a strip
  Strips(const Layout& layout, bool whole_blocks) : l(flattened(layout)) {
    strips = up(l.rows, l.block_rows);
    blocks = up(l.columns, l.block_columns);
    wide = std::max<size_t>(TASK / l.block_rows, 16);
    if (wide >= l.block_columns)
      wide = wide / l.block_columns * l.block_columns;
    else if (whole_blocks)
      wide = l.block_columns;
    else
      wide = wide / 16 * 16;
    ranges = up(l.columns, wide);
  }
  size_t tasks() const { return l.batch * strips * ranges; }
  // calls f(number of the first block of the strip, element of its first row, rows, first and last column)
  template <class Function>
  void task(size_t k, const Function& f) const {
    const size_t range = k % ranges, strip = k / ranges % strips, batch = k / ranges / strips;
    const size_t row = strip * l.block_rows;
    f((batch * strips + strip) * blocks, (batch * l.rows + row) * l.columns, std::min(l.block_rows, l.rows - row), range * wide,
      std::min(l.columns, (range + 1) * wide));
  }
};

template <class Step>
void with_given(const Step& step, const Layout& layout, const Units& units, int32_t threads) {
  const Strips s(layout, false);
  parallel(s.tasks(), threads, [&](size_t k) {
    fresh_buffers();
    s.task(k, [&](size_t block, size_t start, size_t rows, size_t first, size_t last) {
      for (size_t r = 0; r < rows; r++) each_run(step, moved(units, block), start + r * s.l.columns, first, last, s.l.block_columns);
    });
  });
}

void measure_row(const Target& t, const Job& job, size_t start, size_t first, size_t last, size_t width, uint32_t* most, float* low, float* high) {
  const size_t step = width <= RUN ? RUN / width * width : RUN;
  for (size_t c = first; c < last; c += step) {
    const size_t n = std::min(step, last - c), block = width <= RUN ? (c - first) / width : 0;
    const float* x = source(t, job.x, job.x_type, start + c, n);
    t.measure(x, n, width <= RUN ? width : n, most + block, low ? low + block : nullptr, high ? high + block : nullptr);
  }
}

// the unit of scales
Units scale_units(const Job& job) { return {job.scale_unit, nullptr, nullptr, nullptr, nullptr}; }

void store_scales(const Target& t, const Job& job, const float* scale, float* stored, size_t count) {
  if (job.scale_codec)
    t.values(*job.scale_codec, scale_units(job), scale, stored, count, count, nullptr);
  else
    std::memcpy(stored, scale, 4 * count);
}

bool ranged(const ScaleRule& r) { return r.rule == MINMAX || r.rule == SIGN_SPLIT || r.rule == EXTREMES; }

// where a range begins: at zero, which belongs to every range but that of the extremes
float first_low(const ScaleRule& r) { return r.rule == EXTREMES ? std::numeric_limits<float>::infinity() : 0.0f; }
float first_high(const ScaleRule& r) { return 0.0f - first_low(r); }

// Scales of `count` blocks from what was measured: as the rule gives them to the job's outputs, as stored to `stored` and `second`.
void find_scales(const Target& t, const Job& job, size_t block, size_t count, const uint32_t* most, const float* low, const float* high,
                 float* scale, float* stored, float* second) {
  if (job.rule.rule != ABSMEAN) t.scales(job.rule, most, low, high, scale, second, count);
  if (job.scale_out) std::memcpy(job.scale_out + block, scale, 4 * count);
  if (job.second_out && second) std::memcpy(job.second_out + block, second, 4 * count);
  store_scales(t, job, scale, stored, count);
  if (job.rule.rule == SIGN_SPLIT) store_scales(t, job, second, second, count);
}

Units found_units(const Job& job, const float* stored, const float* second) {
  const bool zeros = job.rule.rule == MINMAX, negatives = job.rule.rule == SIGN_SPLIT;
  return {stored, zeros ? second : nullptr, nullptr, negatives ? second : nullptr, nullptr};
}

// The squared errors of a run as stored.
struct Deviate {
  const Target& t;
  const Job& job;
  const Codec& codec;
  size_t first;
  BlockSums& sums;
  void operator()(const Units& u, size_t at, size_t n, size_t width) const {
    Buffers& b = buffers();
    const float* x = source(t, job.x, job.x_type, at, n);
    t.values(codec, u, x, b.out, n, width, nullptr);
    sums.add(x, b.out, at - first, n);
  }
};

// Of several candidates each block keeps the one with the least squared error: its stored scale, and its number.
void choose(const Target& t, const Job& job, size_t start, size_t n, size_t width, size_t count) {
  Buffers& b = buffers();
  for (size_t k = 0; k < job.candidate_count; k++) {
    const Candidate& one = job.candidates[k];
    ScaleRule rule = job.rule;
    rule.top = one.top;
    t.scales(rule, b.most, nullptr, nullptr, b.scale, nullptr, count);
    for (size_t i = 0; i < count; i++) b.scale[i] *= one.share;
    store_scales(t, job, b.scale, b.trial, count);
    BlockSums sums(t, width, count, b.pieces);
    each_run(Deviate{t, job, *one.codec, start, sums}, {b.trial, nullptr, nullptr, nullptr, nullptr}, start, 0, n, width);
    for (size_t i = 0; i < count; i++) {
      const double error = sums.sum(i);
      if (k && !(error < b.least[i])) continue;
      b.least[i] = error;
      b.stored[i] = b.trial[i];
      b.chosen[i] = (uint8_t)k;
    }
  }
}

// Blocks that a thread can hold: measured and rounded while they are in its cache.
void with_own_blocks(const Target& t, const Job& job, const Encode& step) {
  const Strips s(job.layout, true);
  const size_t width = s.l.block_columns, group = width <= RUN ? RUN / width * width : width;
  parallel(s.tasks(), job.threads, [&](size_t k) {
    Buffers& b = fresh_buffers();
    s.task(k, [&](size_t first_block, size_t start, size_t rows, size_t first, size_t last) {
      for (size_t c = first; c < last; c += group) {
        const size_t end = std::min(last, c + group), count = up(end - c, width), block = first_block + c / width;
        if (job.rule.rule == ABSMEAN) {
          BlockSums sums(t, width, count, b.pieces);
          for (size_t at = c; at < end; at += RUN) {
            const size_t n = std::min(RUN, end - at);
            sums.add(source(t, job.x, job.x_type, start + at, n), nullptr, at - c, n);
          }
          for (size_t i = 0; i < count; i++) b.scale[i] = mean_scale(job.rule, sums.sum(i), width);
        } else {
          std::memset(b.most, 0, 4 * count);
          float *low = nullptr, *high = nullptr;
          if (ranged(job.rule)) {
            low = b.low, high = b.high;
            std::fill(low, low + count, first_low(job.rule));
            std::fill(high, high + count, first_high(job.rule));
          }
          for (size_t r = 0; r < rows; r++) measure_row(t, job, start + r * s.l.columns, c, end, width, b.most, low, high);
        }
        find_scales(t, job, block, count, b.most, b.low, b.high, b.scale, b.stored, b.second);
        if (!job.candidate_count) {
          if (!job.out && !job.codes) continue;
          const Units own = found_units(job, b.stored, b.second);
          for (size_t r = 0; r < rows; r++) each_run(step, own, start + r * s.l.columns + c, 0, end - c, width);
          continue;
        }
        choose(t, job, start + c, end - c, width, count);
        if (job.chosen) std::memcpy(job.chosen + block, b.chosen, count);
        if (!job.out && !job.codes) continue;
        for (size_t i = 0, j; i < count; i = j) {
          const Codec& codec = *job.candidates[b.chosen[i]].codec;
          for (j = i + 1; j < count && job.candidates[b.chosen[j]].codec == &codec;) j++;
          each_run(Encode{t, job, step.streamed, codec}, {b.stored + i, nullptr, nullptr, nullptr, nullptr}, start + c + i * width, 0,
                   std::min(end - c, j * width) - i * width, width);
        }
      }
    });
  });
}

// Blocks of 64 numbers with scales of three levels.
void with_hifloat4(const Target& t, const Job& job, bool streamed) {
  const size_t n = job.layout.numel();
  parallel(up(n, TASK), job.threads, [&](size_t k) {
    Buffers& b = fresh_buffers();
    for (size_t at = k * TASK; at < std::min(n, (k + 1) * TASK); at += RUN) {
      const size_t count = std::min(RUN, n - at);
      t.hifloat4(*job.codec, *job.scale_codec, job.rule.top, source(t, job.x, job.x_type, at, count), b.out, count);
      t.write(b.out, job.out, job.out_type, at, count, streamed);
    }
  });
}

// Few long blocks: pieces are measured by all threads, then rounded by all threads.
void with_long_blocks(const Target& t, const Job& job, const Encode& step) {
  const Layout l = job.layout;
  const size_t blocks = up(l.columns, l.block_columns), rows = l.batch * l.rows, count = rows * blocks, pieces = up(l.block_columns, TASK);
  const bool range = ranged(job.rule), mean = job.rule.rule == ABSMEAN;
  const size_t sums = mean ? up(l.block_columns, PIECE) : 0;
  std::vector<uint32_t> most(count * pieces);
  std::vector<float> low(count * pieces, first_low(job.rule)), high(count * pieces, first_high(job.rule));
  std::vector<float> scale(count), stored(count), second(count);
  std::vector<double> sum(count * sums);
  parallel(count * pieces, job.threads, [&](size_t k) {
    fresh_buffers();
    const size_t block = k / pieces, inside = k % pieces * TASK, first = (block % blocks) * l.block_columns + inside;
    const size_t last = std::min({l.columns, (block % blocks + 1) * l.block_columns, first + TASK}), start = block / blocks * l.columns;
    if (first >= last) return;
    if (!mean) return measure_row(t, job, start, first, last, last - first, &most[k], range ? &low[k] : nullptr, range ? &high[k] : nullptr);
    for (size_t at = first; at < last; at += RUN) {
      const size_t n = std::min(RUN, last - at);
      t.sums(source(t, job.x, job.x_type, start + at, n), nullptr, n, PIECE, &sum[block * sums + (inside + at - first) / PIECE]);
    }
  });
  for (size_t block = 0; block < count; block++)
    for (size_t k = block * pieces; k < (block + 1) * pieces; k++) {
      most[block] = k == block * pieces ? most[k] : std::max(most[block], most[k]);
      low[block] = k == block * pieces ? low[k] : std::min(low[block], low[k]);
      high[block] = k == block * pieces ? high[k] : std::max(high[block], high[k]);
    }
  for (size_t block = 0; mean && block < count; block++) {
    std::vector<double> own(sum.begin() + block * sums, sum.begin() + (block + 1) * sums);
    scale[block] = mean_scale(job.rule, total(t, own, sums), l.block_columns);
  }
  find_scales(t, job, 0, count, most.data(), low.data(), high.data(), scale.data(), stored.data(), second.data());
  if (job.out || job.codes) with_given(step, l, found_units(job, stored.data(), second.data()), job.threads);
}

}  // namespace

void run(const Job& job) {
  const Target& t = target();
  const Layout& l = job.layout;
  if (!l.numel()) return;
  static const Codec none{};
  const Encode step{t, job, l.numel() >= STREAMED, job.codec ? *job.codec : none};
  if (job.rule.rule == HIFLOAT4) return with_hifloat4(t, job, step.streamed);
  if (job.rule.rule == NO_RULE) return with_given(step, {1, 1, l.numel(), 1, l.numel()}, Units{}, job.threads);
  if (job.rule.rule == GIVEN) return with_given(step, l, job.given, job.threads);
  const size_t count = l.batch * up(l.rows, l.block_rows) * up(l.columns, l.block_columns);
  const bool few = count < 4 * (size_t)job.threads || l.block_columns > 16 * TASK;
  if (l.block_rows == 1 && l.block_columns > TASK && few && !job.candidate_count)
    with_long_blocks(t, job, step);
  else
    with_own_blocks(t, job, step);
}

double squared_error(const void* x, int32_t x_type, const float* y, size_t n, int32_t threads) {
  const Target& t = target();
  std::vector<double> pieces(up(n, PIECE));
  parallel(up(n, TASK), threads, [&](size_t k) {
    fresh_buffers();
    for (size_t at = k * TASK; at < std::min(n, (k + 1) * TASK); at += RUN) {
      const size_t m = std::min(RUN, n - at);
      t.sums(source(t, x, x_type, at, m), y + at, m, PIECE, &pieces[at / PIECE]);
    }
  });
  return total(t, pieces, pieces.size());
}

bool decode(const float* table, uint32_t count, const void* codes, int32_t code_bytes, const Layout& layout, const Units& units, void* out,
            int32_t out_type, int32_t threads) {
  std::atomic<bool> known{true};
  if (layout.numel()) with_given(Decode{target(), table, count, codes, code_bytes, out, out_type, known}, layout, units, threads);
  return known;
}

namespace {
constexpr size_t PACKED = 1 << 16;  // codes of a task, a multiple of 8
}

void pack(const void* codes, uint8_t* out, int bits, size_t count, int32_t threads) {
  const Target& t = target();
  const size_t size = bits <= 8 ? 1 : 4;
  parallel(up(count, PACKED), threads, [&](size_t k) {
    t.pack((const uint8_t*)codes + k * PACKED * size, out + k * PACKED / 8 * bits, bits, std::min(PACKED, count - k * PACKED));
  });
}

void unpack(const uint8_t* data, void* out, int bits, size_t count, int32_t threads) {
  const Target& t = target();
  const size_t size = bits <= 8 ? 1 : 4;
  parallel(up(count, PACKED), threads, [&](size_t k) {
    t.unpack(data + k * PACKED / 8 * bits, (uint8_t*)out + k * PACKED * size, bits, std::min(PACKED, count - k * PACKED));
  });
}

}  // namespace lowbit
