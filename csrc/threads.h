// Tasks on several threads. No result depends on which thread takes which task.
#pragma once
#include <algorithm>
#include <cstddef>
#include <thread>
#include <vector>

namespace lowbit {

// OpenMP is the runtime that torch uses; both find the same library by its name (libgomp.so.1), so they share its threads.
// Where the compiler has no OpenMP, threads are made for the call.
template <class Function>
void parallel(size_t tasks, int threads, const Function& f) {
  const int n = (int)std::min<size_t>(tasks, (size_t)std::max(threads, 1));
  if (n <= 1) {
    for (size_t k = 0; k < tasks; k++) f(k);
    return;
  }
#if defined(_OPENMP)
// long runs of tasks first, so that memory is read on, then shorter ones, so that all end together
#pragma omp parallel for num_threads(n) schedule(guided, 1)
  for (size_t k = 0; k < tasks; k++) f(k);
#else
  auto share = [&](int i) {
    for (size_t k = tasks * i / n; k < tasks * (i + 1) / n; k++) f(k);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < n; i++) others.emplace_back(share, i);
  share(0);
  for (auto& one : others) one.join();
#endif
}

}  // namespace lowbit
