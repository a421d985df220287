// Memory that is kept for the next call.
#pragma once
#include <cstdlib>

namespace lowbit {

struct Scratch {
  void* data = nullptr;
  size_t nbytes = 0;
  ~Scratch() { std::free(data); }
  void* room(size_t wanted) {
    if (wanted > nbytes) {
      std::free(data);
      nbytes = (wanted + 4095) / 4096 * 4096;
      data = std::aligned_alloc(64, nbytes);
    }
    return data;
  }
};

}  // namespace lowbit
