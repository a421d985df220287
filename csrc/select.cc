// The CPU is asked once. LOWBIT_CPU_TARGET (scalar, avx2, avx512, avx512_vnni) forces a target that this CPU can run.
// A further target, NEON for instance, is one file in targets/, one line in `known` and its flags in CMakeLists.txt.
#include "select.h"

#include <cstdlib>

namespace lowbit {

namespace scalar { extern const Target target; }
#if defined(__x86_64__)
namespace avx2 { extern const Target target; }
namespace avx512 { extern const Target target; }
namespace avx512_vnni { extern const Target target; }
#endif

namespace {

std::vector<const Target*> known() {
  std::vector<const Target*> found = {&scalar::target};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2::target);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    found.push_back(&avx512::target);
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2"))
      found.push_back(&avx512_vnni::target);
  }
#endif
  return found;
}

const std::vector<const Target*>& usable() {
  static const std::vector<const Target*> found = known();
  return found;
}

const Target*& current() {
  static const Target* chosen = [] {
    const char* wanted = std::getenv("LOWBIT_CPU_TARGET");
    for (const Target* one : usable())
      if (wanted && one->name == std::string(wanted)) return one;
    return usable().back();
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

bool use_target(const std::string& name) {
  for (const Target* one : usable())
    if (one->name == name) {
      current() = one;
      return true;
    }
  return false;
}

}  // namespace lowbit
