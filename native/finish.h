// What follows a product: bias, activation, residual.
#pragma once
#include "functions.h"

namespace {

constexpr int64_t kNumbersOfLine = 16;  // of a cache

// Columns `first` to `first + count` of row `row` from their sums, which have room for whole vectors.
MM_INLINE void finish(const mm_product_call& c, int64_t row, int64_t first, int64_t count, const float* sums) {
  float* y = c.y + row * c.ldy + first;
  const float* bias = c.bias ? c.bias + first : nullptr;
  const float* residual = c.residual ? c.residual + row * c.ldr + first : nullptr;
  for (int64_t i = 0; i < count; i += W) {
    const int64_t left = count - i;
    vf v = load(sums + i);
    if (bias) v += left < W ? load_some(bias + i, left) : load(bias + i);
    v = activate(c.activation, v);
    if (residual) v += left < W ? load_some(residual + i, left) : load(residual + i);
    left < W ? store_some(y + i, v, left) : store(y + i, v);
  }
}

// The same of kCount columns, whole vectors whose number is known, with their bias.
template <int kCount>
MM_INLINE void finish_whole(const mm_product_call& c, int64_t row, int64_t first, const float* bias,
                            const float* sums) {
  float* y = c.y + row * c.ldy + first;
  const float* residual = c.residual ? c.residual + row * c.ldr + first : nullptr;
  vf v[kCount / W];
  MM_UNROLL
  for (int i = 0; i < kCount / W; i++) v[i] = load(sums + i * W) + load(bias + i * W);
  activate_all<kCount / W>(c.activation, v);
  if (residual) {
    MM_UNROLL
    for (int i = 0; i < kCount / W; i++) v[i] += load(residual + i * W);
  }
  MM_UNROLL
  for (int i = 0; i < kCount / W; i++) store(y + i * W, v[i]);
}

// Have what `finish` reads and writes on its way into the cache: rows of results are far apart, and each is a stall.
MM_INLINE void await_result(const mm_product_call& c, int64_t row, int64_t first, int64_t count) {
  for (int64_t i = 0; i < count; i += kNumbersOfLine) {
    __builtin_prefetch(c.y + row * c.ldy + first + i, 1);
    if (c.residual) __builtin_prefetch(c.residual + row * c.ldr + first + i);
  }
}

// Rows of a call that share a weight.
struct Group {
  mm_weight weight;
  const int32_t* rows;
  int64_t count;
};

// Jobs for threads that each take memory once: body(memory, job) for each job, `size` bytes of memory.
// False where there is not enough of it.
template <class Body>
MM_INLINE bool jobs_with_memory(int64_t jobs, int64_t size, const Body& body) {
  int64_t next = 0, done = 0;
  mm::parallel(least(jobs, mm::threads()), [&](int64_t) {
    Scratch<char> memory(size);
    if (!memory) return;
    for (int64_t job; (job = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < jobs;) {
      body(memory.get(), job);
      __atomic_fetch_add(&done, 1, __ATOMIC_RELAXED);
    }
  });
  return done == jobs;
}

}  // namespace
