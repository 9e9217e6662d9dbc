// Squares of numbers turned over.
#pragma once
#include "vector.h"

namespace {

typedef uint32_t vu __attribute__((vector_size(W * 4)));

// Four numbers of each row 0, 4, 8 … of W, 16 bytes a row.
MM_INLINE vf every_fourth_row(const char* p, int64_t stride) {
#if defined(__AVX512F__)
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(reinterpret_cast<const float*>(p)));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(reinterpret_cast<const float*>(p + 4 * stride)), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(reinterpret_cast<const float*>(p + 8 * stride)), 2);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(reinterpret_cast<const float*>(p + 12 * stride)), 3);
  return reinterpret_cast<vf>(v);
#elif defined(__AVX2__)
  const __m256 v = _mm256_castps128_ps256(_mm_loadu_ps(reinterpret_cast<const float*>(p)));
  return reinterpret_cast<vf>(_mm256_insertf128_ps(v, _mm_loadu_ps(reinterpret_cast<const float*>(p + 4 * stride)), 1));
#else
  (void)stride;
  vf v;
  memcpy(&v, p, 16);
  return v;
#endif
}

// The first or the last two of each four numbers of a and of b, in turns; and the first or last pairs of them.
#if defined(__AVX512F__)  // masked, since GCC 12 warns of the plain forms
MM_INLINE vf first_numbers(vf a, vf b) { return (vf)_mm512_maskz_unpacklo_ps(0xffff, (__m512)a, (__m512)b); }
MM_INLINE vf last_numbers(vf a, vf b) { return (vf)_mm512_maskz_unpackhi_ps(0xffff, (__m512)a, (__m512)b); }
MM_INLINE vf first_pairs(vf a, vf b) { return (vf)_mm512_maskz_unpacklo_pd(0xff, (__m512d)a, (__m512d)b); }
MM_INLINE vf last_pairs(vf a, vf b) { return (vf)_mm512_maskz_unpackhi_pd(0xff, (__m512d)a, (__m512d)b); }
#elif defined(__AVX2__)
MM_INLINE vf first_numbers(vf a, vf b) { return (vf)_mm256_unpacklo_ps((__m256)a, (__m256)b); }
MM_INLINE vf last_numbers(vf a, vf b) { return (vf)_mm256_unpackhi_ps((__m256)a, (__m256)b); }
MM_INLINE vf first_pairs(vf a, vf b) { return (vf)_mm256_unpacklo_pd((__m256d)a, (__m256d)b); }
MM_INLINE vf last_pairs(vf a, vf b) { return (vf)_mm256_unpackhi_pd((__m256d)a, (__m256d)b); }
#else
MM_INLINE vf first_numbers(vf a, vf b) { return vf{a[0], b[0], a[1], b[1]}; }
MM_INLINE vf last_numbers(vf a, vf b) { return vf{a[2], b[2], a[3], b[3]}; }
MM_INLINE vf first_pairs(vf a, vf b) { return vf{a[0], a[1], b[0], b[1]}; }
MM_INLINE vf last_pairs(vf a, vf b) { return vf{a[2], a[3], b[2], b[3]}; }
#endif

// y[i] = number i of each of W rows, for i < 4.
MM_INLINE void transpose_fours(const char* p, int64_t stride, vu* y) {
  const vf a = every_fourth_row(p, stride), b = every_fourth_row(p + stride, stride);
  const vf c = every_fourth_row(p + 2 * stride, stride), d = every_fourth_row(p + 3 * stride, stride);
  const vf ab = first_numbers(a, b), cd = first_numbers(c, d), last_ab = last_numbers(a, b), last_cd = last_numbers(c, d);
  y[0] = reinterpret_cast<vu>(first_pairs(ab, cd));
  y[1] = reinterpret_cast<vu>(last_pairs(ab, cd));
  y[2] = reinterpret_cast<vu>(first_pairs(last_ab, last_cd));
  y[3] = reinterpret_cast<vu>(last_pairs(last_ab, last_cd));
}

}  // namespace
