// What the processor can do at most, to hold the kernels against.
#pragma once
#include <time.h>

#include "pool.h"
#include "vector.h"

namespace {

constexpr int kChains = 12;               // of instructions that wait for nobody: more than a processor has on the way
constexpr int64_t kInstructions = 200000;  // of each chain in a round, about 1 ms
constexpr int kRounds = 60;               // of which the best counts
constexpr int64_t kReadBytes = 256 << 20;  // more than caches hold
constexpr int kReads = 6;

// The compiler may not know what is in v.
#if defined(__AVX512F__)
#define MM_UNKNOWN(v) __asm__ volatile("" : "+v"(v))
#elif defined(__x86_64__)
#define MM_UNKNOWN(v) __asm__ volatile("" : "+x"(v))
#elif defined(__aarch64__)
#define MM_UNKNOWN(v) __asm__ volatile("" : "+w"(v))
#else
#define MM_UNKNOWN(v)
#endif

MM_KERNEL void multiply_and_add() {
  vf s[kChains] = {}, a = {}, b = {};
  MM_UNKNOWN(b);
  for (int64_t i = 0; i < kInstructions; i++)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; j++) {
      MM_UNKNOWN(a);
      s[j] += a * b;
    }
#pragma GCC unroll 12
  for (int j = 0; j < kChains; j++) MM_UNKNOWN(s[j]);
}

// Sums of products of 8-bit numbers, by the instructions that this set has for them.
MM_INLINE vi dot(vi s, vi a, vi b) {
#if defined(__AVX512VNNI__)
  return (vi)_mm512_dpbusd_epi32((__m512i)s, (__m512i)a, (__m512i)b);
#elif defined(__AVX512F__)
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)a, (__m512i)b);
  return s + (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__)
  return s + (vi)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)a, (__m256i)b), _mm256_set1_epi16(1));
#elif defined(__SSE2__)  // of 16-bit numbers
  return s + (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__ARM_FEATURE_DOTPROD)
  return (vi)vdotq_s32((int32x4_t)s, (int8x16_t)a, (int8x16_t)b);
#elif defined(__aarch64__)
  return (vi)vpadalq_s16((int32x4_t)s, vmull_s8(vget_low_s8((int8x16_t)a), vget_low_s8((int8x16_t)b)));
#else
  return s + a * b;
#endif
}
#if defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
constexpr int kBytesOfDot = W * 4;
#elif defined(__SSE2__) || defined(__aarch64__)
constexpr int kBytesOfDot = 8;
#else
constexpr int kBytesOfDot = W;
#endif

MM_KERNEL void multiply_bytes() {
  vi s[kChains] = {}, a = {}, b = {};
  MM_UNKNOWN(b);
  for (int64_t i = 0; i < kInstructions; i++)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; j++) {
      MM_UNKNOWN(a);
      s[j] = dot(s[j], a, b);
    }
#pragma GCC unroll 12
  for (int j = 0; j < kChains; j++) MM_UNKNOWN(s[j]);
}

MM_KERNEL void read_bytes(const char* p, int64_t bytes) {
  vf s[8] = {};
  for (int64_t i = 0; i < bytes; i += sizeof s)
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) s[j] += load(reinterpret_cast<const float*>(p + i) + j * W);
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++) MM_UNKNOWN(s[j]);
}

// Of one thread its own time, so that others who use the processor do not count.
MM_INLINE double seconds() {
  timespec t;
  clock_gettime(mm::threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// The shortest time in which every thread of the pool does its part.
template <class Part>
MM_INLINE double shortest(int rounds, const Part& part) {
  double best = 1e9;
  for (int i = 0; i < rounds; i++) {
    const double begin = seconds();
    mm::parallel(mm::threads(), part);
    const double took = seconds() - begin;
    best = took < best ? took : best;
  }
  return best;
}

double peak(int32_t kind) {
  const double threads = mm::threads(), chains = kChains * kInstructions * threads;
  if (kind == 0) return 1e-9 * chains * 2 * W / shortest(kRounds, [](int64_t) { multiply_and_add(); });
  if (kind == 1) return 1e-9 * chains * 2 * kBytesOfDot / shortest(kRounds, [](int64_t) { multiply_bytes(); });
  const Scratch<char> memory(kReadBytes);
  if (kind != 2 || !memory) return 0;
  memset(memory.get(), 0, kReadBytes);
  const int64_t part = kReadBytes / mm::threads() / 4096 * 4096;
  return 1e-9 * part * threads / shortest(kReads, [&](int64_t i) { read_bytes(memory.get() + i * part, part); });
}

}  // namespace
