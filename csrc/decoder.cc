#include "decoder.h"

#include <algorithm>

#include "many_rows.h"
#include "qlinear.h"
#include "select.h"
#include "threads.h"

namespace lowbit {
namespace {

constexpr size_t ROWS = 256;  // of an output layer that is not packed, a task

struct Job {
  const Product& product;
  float* y;
};

void multiply_dense(const Job& job, const float* x, size_t rows, int threads) {
  const Product& p = job.product;
  const Target& t = target();
  parallel((p.out + ROWS - 1) / ROWS, threads, [&](size_t k) {
    const size_t first = k * ROWS, last = std::min(p.out, first + ROWS);
    for (size_t r = 0; r < rows; r++) {
      t.dense_rows(p.dense, x + r * p.in, p.in, first, last, job.y + r * p.out);
      for (size_t i = first; p.bias && i < last; i++) job.y[r * p.out + i] += p.bias[i];
    }
  });
}

// Whether two products can read one prepared input (see qlinear.h).
bool share_input(const Product& a, const Product& b) {
  if (!a.packed || !b.packed || a.int8 != b.int8) return false;
  const PackedLinear &v = *a.packed, &w = *b.packed;
  return v.columns == w.columns && v.group == w.group && v.bits == w.bits && v.whole_known == w.whole_known && v.zero == w.zero &&
         v.unit == w.unit && !v.offset.data == !w.offset.data && (v.bits > 2 || std::equal(v.table, v.table + 256, w.table));
}

constexpr size_t STEP = 4;  // tiles that are multiplied at a time

size_t steps_of(const Product& p) { return (tiles_of(*p.packed) + STEP - 1) / STEP; }

// Packed products of the same few rows, tile after tile in one go.
void multiply_together(const Job* jobs, size_t count, const float* x, size_t rows, std::vector<float>& room, int threads) {
  const Product& first = jobs[0].product;
  const size_t need = (first.int8 ? int8_input_nbytes : input_nbytes)(*first.packed, rows) / 4 + 17;
  if (room.size() < need) room.resize(need);
  void* const input = (void*)(((uintptr_t)room.data() + 63) / 64 * 64);
  (first.int8 ? prepare_int8_input : prepare_input)(*first.packed, x, rows, input);
  size_t steps = 0;
  for (size_t i = 0; i < count; i++) steps += steps_of(jobs[i].product);
  const size_t tasks = std::min(steps, (size_t)std::max(threads, 1) * 4);
  parallel(tasks, threads, [&](size_t k) {
    size_t from = steps * k / tasks, to = steps * (k + 1) / tasks;
    for (size_t i = 0; i < count; i++) {
      const Product& p = jobs[i].product;
      const size_t own = steps_of(p), last = std::min(to, own);
      if (from < last)
        (p.int8 ? multiply_int8_tiles : multiply_tiles)(*p.packed, input, rows, from * STEP, std::min(last * STEP, tiles_of(*p.packed)), jobs[i].y,
                                                        p.out, p.bias);
      from -= std::min(from, own);
      to -= std::min(to, own);
    }
  });
}

// y = x W^T + bias of several products with the same x
void multiply(const Job* jobs, size_t count, const float* x, size_t rows, std::vector<float>& room, int threads) {
  for (size_t i = 0, end; i < count; i = end) {
    const Product& p = jobs[i].product;
    for (end = i + 1; end < count && share_input(p, jobs[end].product);) end++;
    if (!p.packed)
      multiply_dense(jobs[i], x, rows, threads);
    else if (rows <= MOST_ROWS && !many_rows_kernel(*p.packed, rows, p.int8 ? INT8_SUMS : FLOAT32_SUMS))
      multiply_together(jobs + i, end - i, x, rows, room, threads);
    else
      for (size_t k = i; k < end; k++)
        (p.int8 ? qlinear_int8 : qlinear)(*jobs[k].product.packed, x, rows, jobs[k].y, jobs[k].product.bias, threads);
  }
}

// The arrays of a step, one after another in `work`.
struct Work {
  float *normed, *q, *k, *v, *attended, *gate, *up, *added, *scores;
  size_t score_room;  // of one task
  Work(const Decoder& d, KeyValues& c, size_t rows, size_t tasks) {
    const size_t queries = d.heads * d.head_dim, keys = d.kv_heads * d.head_dim;
    score_room = (c.capacity + 16) * 4;
    const size_t sizes[] = {d.hidden, queries, keys, keys, queries, d.intermediate, d.intermediate, d.hidden};
    size_t total = tasks * score_room;
    for (size_t s : sizes) total += rows * s;
    if (c.work.size() < total) c.work.resize(total);
    float** const to[] = {&normed, &q, &k, &v, &attended, &gate, &up, &added};
    float* at = c.work.data();
    for (int i = 0; i < 8; i++) *to[i] = at, at += rows * sizes[i];
    scores = at;
  }
};

struct Step {
  const Decoder& d;
  KeyValues& c;
  const Target& t;
  size_t length, rows;
  int threads;
  size_t pieces;  // attention is cut into so many tasks
  Work w;

  Step(const Decoder& d, KeyValues& c, size_t length, int threads)
      : d(d), c(c), t(target()), length(length), rows(c.batch * length), threads(threads),
        pieces(std::min(rows * d.kv_heads, std::max<size_t>(1, threads) * 8)), w(d, c, rows, pieces) {}

  template <class Function>
  void each_row(const Function& f) const {
    parallel(rows, rows < 4 ? 1 : threads, f);
  }

  void norm(const float* x, const float* weight) const {
    each_row([&](size_t r) { t.rms_norm(x + r * d.hidden, weight, d.eps, w.normed + r * d.hidden, d.hidden); });
  }

  float* keys(size_t block, size_t sequence, size_t head) const {
    return c.keys.data() + ((block * c.batch + sequence) * d.kv_heads + head) * c.capacity * d.head_dim;
  }
  float* values(size_t block, size_t sequence, size_t head) const {
    return c.values.data() + ((block * c.batch + sequence) * d.kv_heads + head) * c.capacity * d.head_dim;
  }

  // norms of heads, rotary positions, and the keys and values of row r into the cache
  void place(const DecoderBlock& b, size_t block, size_t r) const {
    const size_t n = d.head_dim, half = n / 2, position = c.length + r % length, sequence = r / length;
    const float *cosine = d.cosine + position * half, *sine = d.sine + position * half;
    for (size_t h = 0; h < d.heads; h++) {
      float* q = w.q + (r * d.heads + h) * n;
      if (b.q_norm) t.rms_norm(q, b.q_norm, d.eps, q, n);
      t.rotate(q, cosine, sine, half);
    }
    for (size_t h = 0; h < d.kv_heads; h++) {
      float* k = w.k + (r * d.kv_heads + h) * n;
      if (b.k_norm) t.rms_norm(k, b.k_norm, d.eps, k, n);
      t.rotate(k, cosine, sine, half);
      float* to = keys(block, sequence, h) + position / 16 * n * 16 + position % 16;
      for (size_t i = 0; i < n; i++) to[i * 16] = k[i];
      std::copy_n(w.v + (r * d.kv_heads + h) * n, n, values(block, sequence, h) + position * n);
    }
  }

  void attention(size_t block) const {
    const size_t tasks = rows * d.kv_heads, group = d.heads / d.kv_heads, n = d.head_dim;
    parallel(pieces, threads, [&](size_t piece) {
      for (size_t k = piece; k < tasks; k += pieces) {  // later tokens see more: they are dealt out in turn
        const size_t head = k % d.kv_heads, r = k / d.kv_heads, at = (r * d.heads + head * group) * n;
        t.attend(w.q + at, group, keys(block, r / length, head), values(block, r / length, head), c.length + r % length + 1, n, d.scale,
                 w.scores + piece * w.score_room, w.attended + at);
      }
    });
  }

  template <size_t N>
  void products(const Job (&jobs)[N], const float* x) const {
    multiply(jobs, N, x, rows, c.input, threads);
  }

  void run(const DecoderBlock& b, size_t block, float* x) const {
    norm(x, b.norm);
    products({{b.q, w.q}, {b.k, w.k}, {b.v, w.v}}, w.normed);
    each_row([&](size_t r) { place(b, block, r); });
    attention(block);
    products({{b.o, w.added}}, w.attended);
    each_row([&](size_t r) { t.accumulate(x + r * d.hidden, w.added + r * d.hidden, d.hidden); });
    norm(x, b.post_norm);
    products({{b.gate, w.gate}, {b.up, w.up}}, w.normed);
    each_row([&](size_t r) {
      t.swiglu(w.gate + r * d.intermediate, w.up + r * d.intermediate, w.gate + r * d.intermediate, d.intermediate);
    });
    products({{b.down, w.added}}, w.gate);
    each_row([&](size_t r) { t.accumulate(x + r * d.hidden, w.added + r * d.hidden, d.hidden); });
  }
};

}  // namespace

KeyValues new_cache(const Decoder& d, size_t batch, size_t capacity) {
  capacity = (capacity + 15) / 16 * 16;
  const size_t size = d.blocks.size() * batch * d.kv_heads * capacity * d.head_dim;
  return {batch, capacity, 0, std::vector<float>(size), std::vector<float>(size), {}, {}};
}

void step(const Decoder& d, KeyValues& cache, float* x, size_t length, float* logits, bool all_logits, int threads) {
  const Step s(d, cache, length, threads);
  for (size_t block = 0; block < d.blocks.size(); block++) s.run(d.blocks[block], block, x);
  cache.length += length;
  s.norm(x, d.norm);
  const Job head = {d.head, logits};
  if (all_logits) return multiply(&head, 1, s.w.normed, s.rows, cache.input, threads);
  for (size_t sequence = 0; sequence < cache.batch; sequence++)  // the last tokens, side by side
    std::copy_n(s.w.normed + ((sequence + 1) * length - 1) * d.hidden, d.hidden, x + sequence * d.hidden);
  multiply(&head, 1, x, cache.batch, cache.input, threads);
}

}  // namespace lowbit
