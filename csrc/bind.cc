// lowbit._cpu: pointers and sizes from Python to the kernels. Callers check shapes, types and contiguity.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>

#include "bind.h"
#include "drive.h"
#include "many_rows.h"
#include "qlinear.h"
#include "select.h"

namespace nb = nanobind;
using namespace lowbit;

namespace {

using Address = uintptr_t;

// Counted up with every change of what is below; kernels/op.py names the one that the Python files need.
constexpr int INTERFACE = 4;

// A Codec with the arrays that it points to.
struct OwnCodec : Codec {
  std::vector<uint32_t> bucket_array, code_array, value_array;
  std::vector<uint16_t> upper_array, lower_array;
  std::vector<float> cut_array, number_array;
  OwnCodec() : Codec{} {}
  OwnCodec(const OwnCodec&) = delete;
};

template <class T>
void fill(std::vector<T>& to, const nb::bytes& from, size_t least) {
  to.assign(std::max(least, from.size() / sizeof(T)), T{});
  std::memcpy(to.data(), from.data(), from.size() / sizeof(T) * sizeof(T));
}

template <class T, size_t N>
void fill(T (&to)[N], const std::vector<T>& from) {
  if (from.size() != N) throw std::invalid_argument("an array of the wrong length");
  std::copy(from.begin(), from.end(), to);
}

Layout layout_of(const std::vector<size_t>& l) {
  if (l.size() != 5) throw std::invalid_argument("a layout has five numbers");
  return {l[0], l[1], l[2], std::max<size_t>(l[3], 1), std::max<size_t>(l[4], 1)};
}

Units units_of(const std::vector<Address>& u) {
  if (u.size() != 5) throw std::invalid_argument("units are five addresses");
  return {(const float*)u[0], (const float*)u[1], (const float*)u[2], (const float*)u[3], (const float*)u[4]};
}

ScaleRule rule_of(const nb::tuple& r) {
  return {nb::cast<int32_t>(r[0]), nb::cast<float>(r[1]), nb::cast<int32_t>(r[2]), nb::cast<uint32_t>(r[3]),
          nb::cast<float>(r[4]),   nb::cast<float>(r[5]), nb::cast<float>(r[6]),   nb::cast<double>(r[7])};
}

PerBlock per_block_of(const nb::tuple& b) {
  return {(const void*)nb::cast<Address>(b[0]), nb::cast<int32_t>(b[1]), nb::cast<int32_t>(b[2]), (const float*)nb::cast<Address>(b[3])};
}

// Activations that are not float32 are converted here, results back, where the kernel does not.
void multiply(const PackedLinear& w, Arithmetic arithmetic, void (*f)(const PackedLinear&, const float*, size_t, float*, const float*, int), Address x,
              int type, size_t m, Address y, Address bias, int threads) {
  nb::gil_scoped_release release;
  if (const Gemm* gemm = many_rows_kernel(w, m, arithmetic))
    return multiply_many_rows(*gemm, w, (const void*)x, type, m, (void*)y, (const float*)bias, threads);
  if (type == FLOAT32) return f(w, (const float*)x, m, (float*)y, (const float*)bias, threads);
  std::vector<float> wide(m * w.columns), result(m * w.rows);
  target().read((const void*)x, type, 0, wide.data(), wide.size());
  f(w, wide.data(), m, result.data(), (const float*)bias, threads);
  target().write(result.data(), (void*)y, type, 0, result.size(), false);
}

void run_job(const OwnCodec* codec, const OwnCodec* scale_codec, Address scale_unit, Address x, int x_type, const std::vector<size_t>& layout, const nb::tuple& rule,
             const std::vector<Address>& units, Address out, int out_type, Address codes, int code_bytes, Address scale_out, Address second_out,
             const nb::list& candidates, Address chosen, int noise, uint32_t key0, uint32_t key1, Address words, int threads) {
  std::vector<Candidate> ways;
  for (nb::handle one : candidates) {
    const nb::tuple c = nb::cast<nb::tuple>(one);
    ways.push_back({nb::cast<const OwnCodec*>(c[0]), nb::cast<float>(c[1]), nb::cast<float>(c[2])});
  }
  const Job job = {codec, scale_codec, (const float*)scale_unit, (const void*)x, x_type, layout_of(layout), rule_of(rule), units_of(units), (void*)out, out_type,
                   (void*)codes, code_bytes, (float*)scale_out, (float*)second_out, ways.data(), ways.size(), (uint8_t*)chosen, {noise, key0, key1, (const int64_t*)words}, threads};
  nb::gil_scoped_release release;
  run(job);
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "Kernels of lowbit for CPUs";
  m.attr("interface") = INTERFACE;
  nb::class_<OwnCodec> codec(m, "Codec");
  codec.def(nb::init<>());
#define LOWBIT_NUMBER(name) codec.def_prop_rw(#name, [](const OwnCodec& c) { return c.name; }, [](OwnCodec& c, decltype(Codec::name) v) { c.name = v; });
  LOWBIT_NUMBER(value_method) LOWBIT_NUMBER(code_method) LOWBIT_NUMBER(stochastic) LOWBIT_NUMBER(keep_negative_zero)
  LOWBIT_NUMBER(low) LOWBIT_NUMBER(high) LOWBIT_NUMBER(magic) LOWBIT_NUMBER(unit) LOWBIT_NUMBER(least) LOWBIT_NUMBER(lift)
  LOWBIT_NUMBER(drop) LOWBIT_NUMBER(overflows) LOWBIT_NUMBER(overflow_from) LOWBIT_NUMBER(code_sign)
  LOWBIT_NUMBER(bucket_low) LOWBIT_NUMBER(bucket_high) LOWBIT_NUMBER(bucket_shift) LOWBIT_NUMBER(bucket_count)
  LOWBIT_NUMBER(zero_rank) LOWBIT_NUMBER(search_step) LOWBIT_NUMBER(negative_zero_code) LOWBIT_NUMBER(negative_zero) LOWBIT_NUMBER(zero_code) LOWBIT_NUMBER(last_rank)
#undef LOWBIT_NUMBER
#define LOWBIT_PAIR(name) codec.def("set_" #name, [](OwnCodec& c, const std::vector<uint32_t>& v) { fill(c.name, v); });
  LOWBIT_PAIR(nan_value) LOWBIT_PAIR(nan_code) LOWBIT_PAIR(overflow_value) LOWBIT_PAIR(overflow_code)
#undef LOWBIT_PAIR
#define LOWBIT_ARRAY(field, array, least) \
  codec.def("set_" #field, [](OwnCodec& c, const nb::bytes& v) { fill(c.array, v, least); c.field = c.array.data(); });
  LOWBIT_ARRAY(buckets, bucket_array, 1) LOWBIT_ARRAY(cuts, cut_array, 512) LOWBIT_ARRAY(rank_value, value_array, 257)
  LOWBIT_ARRAY(rank_number, number_array, 257) LOWBIT_ARRAY(rank_code, code_array, 257) LOWBIT_ARRAY(rank_upper, upper_array, 256) LOWBIT_ARRAY(rank_lower, lower_array, 256)
#undef LOWBIT_ARRAY

  m.def("run", &run_job, nb::arg("codec").none(), nb::arg("scale_codec").none(), nb::arg("scale_unit"), nb::arg("x"), nb::arg("x_type"), nb::arg("layout"),
        nb::arg("rule"), nb::arg("units"), nb::arg("out"), nb::arg("out_type"), nb::arg("codes"), nb::arg("code_bytes"), nb::arg("scale_out"),
        nb::arg("second_out"), nb::arg("candidates"), nb::arg("chosen"), nb::arg("noise"), nb::arg("key0"), nb::arg("key1"), nb::arg("words"), nb::arg("threads"));
  m.def("decode", [](Address table, uint32_t count, Address codes, int code_bytes, const std::vector<size_t>& layout,
                     const std::vector<Address>& units, Address out, int out_type, int threads) {
    const Layout l = layout_of(layout);
    const Units u = units_of(units);
    nb::gil_scoped_release release;
    return decode((const float*)table, count, (const void*)codes, code_bytes, l, u, (void*)out, out_type, threads);
  });
  m.def("pack", [](Address codes, Address out, int bits, size_t count, int threads) {
    nb::gil_scoped_release release;
    pack((const void*)codes, (uint8_t*)out, bits, count, threads);
  });
  m.def("unpack", [](Address data, Address out, int bits, size_t count, int threads) {
    nb::gil_scoped_release release;
    unpack((const uint8_t*)data, (void*)out, bits, count, threads);
  });
  m.def("squared_error", [](Address x, int x_type, Address y, size_t count, int threads) {
    nb::gil_scoped_release release;
    return squared_error((const void*)x, x_type, (const float*)y, count, threads);
  });
  nb::class_<PackedLinear>(m, "PackedLinear")
      .def("__init__", [](PackedLinear* to, const std::vector<size_t>& sizes, int bits, int decode, Address codes, Address table, Address magnitudes,
                          const nb::tuple& scale, const nb::tuple& offset, const nb::object& whole) {
        if (sizes.size() != 5) throw std::invalid_argument("rows, columns, group, groups, units");
        *to = PackedLinear{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], bits, decode, (const uint32_t*)codes, (const float*)table,
                           (const uint8_t*)magnitudes, per_block_of(scale), per_block_of(offset), 0, 0, 0, 1.0f, {}};
        if (whole.is_none()) return;
        const nb::tuple w = nb::cast<nb::tuple>(whole);  // unit, zero, flip, numbers
        to->whole_known = 1;
        to->unit = nb::cast<float>(w[0]);
        to->zero = nb::cast<int32_t>(w[1]);
        to->flip = nb::cast<int32_t>(w[2]);
        const nb::bytes numbers = nb::cast<nb::bytes>(w[3]);
        std::memcpy(to->whole, numbers.data(), std::min<size_t>(numbers.size(), 64));
      }, nb::arg("sizes"), nb::arg("bits"), nb::arg("decode"), nb::arg("codes"), nb::arg("table"), nb::arg("magnitudes"), nb::arg("scale"),
         nb::arg("offset"), nb::arg("whole").none());
  m.def("qlinear", [](const PackedLinear& w, Address x, int type, size_t rows, Address y, Address bias, bool halves, int threads) {
    multiply(w, halves ? BFLOAT16_SUMS : FLOAT32_SUMS, qlinear, x, type, rows, y, bias, threads);
  });
  m.def("qlinear_int8", [](const PackedLinear& w, Address x, int type, size_t rows, Address y, Address bias, int threads) {
    multiply(w, INT8_SUMS, qlinear_int8, x, type, rows, y, bias, threads);
  });
  m.def("many_rows", [](const PackedLinear& w, size_t rows, int arithmetic) {
    const Gemm* gemm = many_rows_kernel(w, rows, (Arithmetic)arithmetic);
    return std::string(gemm ? gemm->name : "");
  }, "What multiplies so many rows of x in one go (0: in float32, 1: int8, 2: bfloat16), empty where rows are taken a few at a time.");
  m.def("read_all", [](Address data, size_t nbytes) {
    nb::gil_scoped_release release;
    return read_all((const void*)data, nbytes);
  }, "Reads memory; for measuring how fast that is.");
  bind_decoder(m);
  m.def("target", [] { return std::string(target().name); }, "The target in use.");
  m.def("targets", &usable_targets, "The targets that this CPU can run.");
  m.def("refused_targets", &refused_targets, "The others, each with the reason.");
  m.def("use_target", &use_target, "Switch; False where this CPU cannot run it.");
}
