#include "drive.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "select.h"
#include "threads.h"

namespace lowbit {
namespace {

constexpr size_t RUN = 4096;           // numbers handled at a time; two buffers of them fit the first-level cache
constexpr size_t TASK = 1 << 15;       // numbers of a task, about
constexpr size_t STREAMED = 1 << 22;   // from so many float32 results on the caches are left alone

struct Buffers {
  alignas(64) float in[RUN];
  alignas(64) float out[RUN];
  alignas(64) uint32_t noise[RUN + 8];
  alignas(64) float units[5][RUN];
  alignas(64) uint32_t most[RUN];
  alignas(64) float low[RUN], high[RUN], scale[RUN], stored[RUN], zero[RUN];
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
  void operator()(const Units& u, size_t at, size_t n, size_t width) const {
    Buffers& b = buffers();
    const float* x = source(t, job.x, job.x_type, at, n);
    const uint32_t* noise = words(t, job.noise, at, n, b.noise);
    if (job.codes && job.code_bytes == 1) t.codes8(*job.codec, u, x, (uint8_t*)job.codes + at, n, width, noise);
    if (job.codes && job.code_bytes == 4) t.codes32(*job.codec, u, x, (int32_t*)job.codes + at, n, width, noise);
    if (!job.out) return;
    if (job.out_type == FLOAT32 && !streamed) {
      t.values(*job.codec, u, x, (float*)job.out + at, n, width, noise);
    } else {
      t.values(*job.codec, u, x, b.out, n, width, noise);
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

size_t up(size_t a, size_t b) { return (a + b - 1) / b; }

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

// Scales of `count` blocks from their maxima: as the rule gives them to the job's outputs, as stored to `stored`.
void find_scales(const Target& t, const Job& job, size_t block, size_t count, const uint32_t* most, const float* low, const float* high,
                 float* scale, float* stored, float* zero) {
  t.scales(job.rule, most, low, high, scale, zero, count);
  if (job.scale_out) std::memcpy(job.scale_out + block, scale, 4 * count);
  if (job.zero_out && zero) std::memcpy(job.zero_out + block, zero, 4 * count);
  if (job.scale_codec)
    t.values(*job.scale_codec, Units{}, scale, stored, count, count, nullptr);
  else
    std::memcpy(stored, scale, 4 * count);
}

// Blocks that a thread can hold: measured and rounded while they are in its cache.
void with_own_blocks(const Target& t, const Job& job, const Encode& step) {
  const Strips s(job.layout, true);
  const bool ranged = job.rule.rule == MINMAX;
  const size_t width = s.l.block_columns, group = width <= RUN ? RUN / width * width : width;
  parallel(s.tasks(), job.threads, [&](size_t k) {
    Buffers& b = fresh_buffers();
    s.task(k, [&](size_t first_block, size_t start, size_t rows, size_t first, size_t last) {
      for (size_t c = first; c < last; c += group) {
        const size_t end = std::min(last, c + group), count = up(end - c, width);
        std::memset(b.most, 0, 4 * count);
        if (ranged) std::memset(b.low, 0, 4 * count), std::memset(b.high, 0, 4 * count);
        float *low = ranged ? b.low : nullptr, *high = ranged ? b.high : nullptr, *zero = ranged ? b.zero : nullptr;
        for (size_t r = 0; r < rows; r++) measure_row(t, job, start + r * s.l.columns, c, end, width, b.most, low, high);
        find_scales(t, job, first_block + c / width, count, b.most, low, high, b.scale, b.stored, zero);
        if (!job.codec) continue;
        const Units own = {b.stored, zero, nullptr, nullptr, nullptr};
        for (size_t r = 0; r < rows; r++) each_run(step, own, start + r * s.l.columns + c, 0, end - c, width);
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
  const bool ranged = job.rule.rule == MINMAX;
  std::vector<uint32_t> most(count * pieces);
  std::vector<float> low(count * pieces), high(count * pieces), scale(count), stored(count), zero(count);
  parallel(count * pieces, job.threads, [&](size_t k) {
    fresh_buffers();
    const size_t block = k / pieces, first = (block % blocks) * l.block_columns + (k % pieces) * TASK;
    const size_t last = std::min({l.columns, (block % blocks + 1) * l.block_columns, first + TASK});
    if (first < last)
      measure_row(t, job, block / blocks * l.columns, first, last, last - first, &most[k], ranged ? &low[k] : nullptr, ranged ? &high[k] : nullptr);
  });
  for (size_t block = 0; block < count; block++)
    for (size_t k = block * pieces; k < (block + 1) * pieces; k++) {
      most[block] = k == block * pieces ? most[k] : std::max(most[block], most[k]);
      low[block] = k == block * pieces ? low[k] : std::min(low[block], low[k]);
      high[block] = k == block * pieces ? high[k] : std::max(high[block], high[k]);
    }
  find_scales(t, job, 0, count, most.data(), ranged ? low.data() : nullptr, ranged ? high.data() : nullptr, scale.data(), stored.data(),
              ranged ? zero.data() : nullptr);
  if (job.codec) with_given(step, l, {stored.data(), ranged ? zero.data() : nullptr, nullptr, nullptr, nullptr}, job.threads);
}

}  // namespace

void run(const Job& job) {
  const Target& t = target();
  const Layout& l = job.layout;
  if (!l.numel()) return;
  const Encode step{t, job, job.out_type == FLOAT32 && l.numel() >= STREAMED};
  if (job.rule.rule == HIFLOAT4) return with_hifloat4(t, job, step.streamed);
  if (job.rule.rule == NO_RULE) return with_given(step, {1, 1, l.numel(), 1, l.numel()}, Units{}, job.threads);
  if (job.rule.rule == GIVEN) return with_given(step, l, job.given, job.threads);
  const size_t count = l.batch * up(l.rows, l.block_rows) * up(l.columns, l.block_columns);
  if (l.block_rows == 1 && l.block_columns > TASK && (count < 4 * (size_t)job.threads || l.block_columns > 16 * TASK))
    with_long_blocks(t, job, step);
  else
    with_own_blocks(t, job, step);
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

void pack(const uint8_t* codes, uint8_t* out, int bits, size_t count, int32_t threads) {
  const Target& t = target();
  parallel(up(count, PACKED), threads, [&](size_t k) {
    t.pack(codes + k * PACKED, out + k * PACKED / 8 * bits, bits, std::min(PACKED, count - k * PACKED));
  });
}

void unpack(const uint8_t* data, uint8_t* out, int bits, size_t count, int32_t threads) {
  const Target& t = target();
  parallel(up(count, PACKED), threads, [&](size_t k) {
    t.unpack(data + k * PACKED / 8 * bits, out + k * PACKED, bits, std::min(PACKED, count - k * PACKED));
  });
}

}  // namespace lowbit
