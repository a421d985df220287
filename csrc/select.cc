// The CPU is asked once. LOWBIT_CPU_TARGET (scalar, avx2, avx512, avx512_vnni, avx512_bf16, amx) forces a target that this CPU can run.
// A further target, NEON for instance, is one file in targets/, one line in KNOWN and its flags in CMakeLists.txt.
#include "select.h"

#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lowbit {

namespace scalar { extern const Target target; }
#if defined(__x86_64__)
namespace avx2 { extern const Target target; }
namespace avx512 { extern const Target target; }
namespace avx512_vnni { extern const Target target; }
namespace avx512_bf16 { extern const Target target; }
namespace amx { extern const Target target; }
#endif

namespace {

#if defined(__x86_64__)
const char* without_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? nullptr : "this CPU has no AVX2 with FMA"; }

const char* without_avx512() {
  if (const char* less = without_avx2()) return less;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512vl")
             ? nullptr
             : "this CPU has no AVX512 (F, BW, DQ, VL)";
}

const char* without_vnni() {
  if (const char* less = without_avx512()) return less;
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2")
             ? nullptr
             : "this CPU has no AVX512 VNNI with VBMI and VBMI2";
}

#if defined(LOWBIT_EMULATE_AMX)
const char* without_bf16() { return without_vnni(); }
const char* without_tiles() { return without_vnni(); }
#else
bool cpuid(unsigned leaf, unsigned subleaf, unsigned (&r)[4]) { return __get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]); }

const char* without_bf16() {
  unsigned r[4];
  if (const char* less = without_vnni()) return less;
  return cpuid(7, 1, r) && (r[0] >> 5 & 1) ? nullptr : "this CPU has no AVX512 BF16";
}

const char* without_tiles() {
  unsigned r[4], low, high;
  if (const char* less = without_bf16()) return less;
  constexpr unsigned WANTED = 1u << 22 | 1u << 24 | 1u << 25;  // bf16, tile, int8
  if (!cpuid(7, 0, r) || (r[3] & WANTED) != WANTED) return "this CPU has no AMX with int8 and bfloat16";
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x60000u) != 0x60000u) return "the system does not keep the state of AMX";
#if defined(__linux__)
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // once a process
  return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0 ? nullptr : "the system does not let this process use AMX";
#else
  return "only Linux is known to let a process use AMX";
#endif
}
#endif
#endif

struct Known {
  const Target* target;
  const char* (*missing)();  // null where nothing is
};
constexpr Known KNOWN[] = {
    {&scalar::target, nullptr},
#if defined(__x86_64__)
    {&avx2::target, without_avx2},
    {&avx512::target, without_avx512},
    {&avx512_vnni::target, without_vnni},
    {&avx512_bf16::target, without_bf16},
    {&amx::target, without_tiles},
#endif
};

struct Found {
  std::vector<const Target*> usable;
  const Target* best;
  std::vector<std::string> refused;
};

const Found& found() {
  static const Found all = [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    Found f;
    for (const Known& one : KNOWN) {
      const char* why = one.missing ? one.missing() : nullptr;
      if (!why) f.usable.push_back(one.target);
      else f.refused.push_back(std::string(one.target->name) + ": " + why);
    }
    f.best = f.usable.back();
#if defined(__x86_64__)
    // its products of bfloat16 took 1.6 times as long as those of float32
    if (f.best == &avx512_bf16::target && __builtin_cpu_is("intel")) f.best = &avx512_vnni::target;
#endif
    return f;
  }();
  return all;
}

const std::vector<const Target*>& usable() { return found().usable; }

const Target*& current() {
  static const Target* chosen = [] {
    const char* wanted = std::getenv("LOWBIT_CPU_TARGET");
    for (const Target* one : usable())
      if (wanted && one->name == std::string(wanted)) return one;
    return found().best;
  }();
  return chosen;
}

}  // namespace

const Target& target() { return *current(); }

std::vector<std::string> usable_targets() {
  std::vector<std::string> names;
  for (const Target* one : usable()) names.push_back(one->name);
  return names;
}

std::vector<std::string> refused_targets() { return found().refused; }

bool use_target(const std::string& name) {
  for (const Target* one : usable())
    if (one->name == name) {
      current() = one;
      return true;
    }
  return false;
}

}  // namespace lowbit
