// The decoder of lowbit._cpu. Python checks shapes and keeps alive whatever pointers lead to.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bind.h"
#include "decoder.h"
#include "gather.h"
#include "qlinear.h"

namespace nb = nanobind;
using namespace lowbit;

namespace {

using Address = uintptr_t;

// (packed or None, address of float32 weights, address of a bias, out, in, whether x is in int8)
Product product_of(const nb::handle& h) {
  const nb::tuple p = nb::cast<nb::tuple>(h);
  return {p[0].is_none() ? nullptr : nb::cast<const PackedLinear*>(p[0]), (const float*)nb::cast<Address>(p[1]),
          (const float*)nb::cast<Address>(p[2]), nb::cast<size_t>(p[3]), nb::cast<size_t>(p[4]),
          nb::cast<bool>(p[5])};
}

}  // namespace

void bind_decoder(nb::module_& m) {
  m.def("gather", [](const PackedLinear& w, Address rows, size_t count, Address out, int threads) {
    nb::gil_scoped_release release;
    gather(w, (const int64_t*)rows, count, (float*)out, threads);
  });
  nb::class_<KeyValues>(m, "KeyValues").def_ro("length", &KeyValues::length).def_ro("capacity", &KeyValues::capacity);
  nb::class_<Decoder>(m, "Decoder")
      .def("__init__",
           [](Decoder* d, size_t hidden, size_t heads, size_t kv_heads, size_t head_dim, size_t intermediate, float eps, float scale,
              Address cosine, Address sine, Address norm, const nb::tuple& head) {
             new (d) Decoder{hidden, heads, kv_heads, head_dim, intermediate, eps, scale, (const float*)cosine, (const float*)sine,
                             (const float*)norm, product_of(head), {}};
           })
      .def("add",
           [](Decoder& d, const std::vector<Address>& norms, const nb::list& products) {
             if (norms.size() != 4 || products.size() != 7) throw std::invalid_argument("a block has four norms and seven products");
             Product p[7];
             for (size_t i = 0; i < 7; i++) p[i] = product_of(products[i]);
             d.blocks.push_back({(const float*)norms[0], (const float*)norms[1], (const float*)norms[2], (const float*)norms[3], p[0], p[1],
                                 p[2], p[3], p[4], p[5], p[6]});
           })
      .def("cache", [](const Decoder& d, size_t batch, size_t capacity) { return new_cache(d, batch, capacity); })
      .def("step", [](const Decoder& d, KeyValues& cache, Address x, size_t length, Address logits, bool all_logits, int threads) {
        if (cache.length + length > cache.capacity) throw std::invalid_argument("the cache has no room for these tokens");
        nb::gil_scoped_release release;
        step(d, cache, (float*)x, length, (float*)logits, all_logits, threads);
      });
}
