// Vectors of the instruction set that this file is compiled for, and what is computed with them.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define MM_INLINE static inline __attribute__((always_inline))
// A kernel of its own: GCC 12 spills accumulators of 512 bits when it inlines one.
#define MM_KERNEL static __attribute__((noinline))
// A loop over an array of vectors, so that they are registers and not memory.
#if defined(__clang__)
#define MM_UNROLL _Pragma("unroll")
#else
#define MM_UNROLL _Pragma("GCC unroll 32")
#endif

// Everything here has internal linkage: the same names are compiled once for each instruction set, and a linker that
// joined them would give an old processor the instructions of a new one. So no templates of the standard library.
namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;  // of vectors
#else
constexpr int kRegisters = 16;
#endif

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef float vf_unaligned __attribute__((vector_size(W * 4), aligned(4)));

MM_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
MM_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
MM_INLINE vf all(float x) { return x - vf{}; }
MM_INLINE vf bits_as_floats(vi v) { return reinterpret_cast<vf>(v); }
MM_INLINE vi bits_of(vf v) { return reinterpret_cast<vi>(v); }
MM_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
MM_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
MM_INLINE vi lanes() {  // 0, 1, 2, …
  vi v{};
  for (int i = 0; i < W; i++) v[i] = i;
  return v;
}
MM_INLINE vf abs(vf x) { return bits_as_floats(bits_of(x) & 0x7fffffff); }

// The first n < W numbers, the others 0 (or `rest`).
MM_INLINE vf load_some(const float* p, int64_t n, float rest = 0) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_mask_loadu_ps(_mm512_set1_ps(rest), __mmask16((1u << n) - 1), p));
#elif defined(__AVX2__)
  const vi kept = lanes() < int32_t(n);
  const vf v = reinterpret_cast<vf>(_mm256_maskload_ps(p, reinterpret_cast<__m256i>(kept)));
  return kept ? v : all(rest);
#else
  float t[W];
  for (int i = 0; i < W; i++) t[i] = i < n ? p[i] : rest;
  return load(t);
#endif
}
MM_INLINE void store_some(float* p, vf v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  const vi kept = lanes() < int32_t(n);
  _mm256_maskstore_ps(p, reinterpret_cast<__m256i>(kept), reinterpret_cast<__m256>(v));
#else
  for (int i = 0; i < W && i < n; i++) p[i] = v[i];
#endif
}

// W / 2 numbers, each twice.
MM_INLINE vf load_twice(const float* p) {
#if defined(__AVX512F__)
  const vi each = lanes() >> 1;
  const __m512 v = _mm512_castps256_ps512(_mm256_loadu_ps(p));
  return reinterpret_cast<vf>(_mm512_permutexvar_ps(reinterpret_cast<__m512i>(each), v));
#elif defined(__AVX2__)
  const vi each = lanes() >> 1;
  const __m256 v = _mm256_castps128_ps256(_mm_loadu_ps(p));
  return reinterpret_cast<vf>(_mm256_permutevar8x32_ps(v, reinterpret_cast<__m256i>(each)));
#else
  return vf{p[0], p[0], p[1], p[1]};
#endif
}
// Numbers 1, 0, 3, 2, …
MM_INLINE vf swap_neighbours(vf v) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_permute_ps(reinterpret_cast<__m512>(v), 0xb1));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(_mm256_permute_ps(reinterpret_cast<__m256>(v), 0xb1));
#else
  return vf{v[1], v[0], v[3], v[2]};
#endif
}

#if defined(__AVX2__) && !defined(__AVX512F__)
MM_INLINE __m128 low_half(vf v) { return _mm256_castps256_ps128(reinterpret_cast<__m256>(v)); }
MM_INLINE __m128 high_half(vf v) { return _mm256_extractf128_ps(reinterpret_cast<__m256>(v), 1); }
#endif

MM_INLINE float sum(vf v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  const __m128 four = _mm_add_ps(low_half(v), high_half(v)), two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float s = 0;
  for (int i = 0; i < W; i++) s += v[i];
  return s;
#endif
}
MM_INLINE float greatest(vf v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  const __m128 four = _mm_max_ps(low_half(v), high_half(v)), two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
  float m = v[0];
  for (int i = 1; i < W; i++) m = v[i] > m ? v[i] : m;
  return m;
#endif
}

// Memory of one call, or of one thread within it.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : data_(static_cast<T*>(aligned_alloc(64, (count * sizeof(T) + 64 + 63) / 64 * 64))) {}
  ~Scratch() { free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return data_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  T* data_;
};

MM_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
MM_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
MM_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace
